"""A page in the browser: ask and compare models, browse the exam, watch a training (`lorachain app`; Gradio)."""
