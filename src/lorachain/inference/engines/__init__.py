"""Engines that continue text: `local` (ours), `openai` (any OpenAI-compatible server), `vllm` (optional extra)."""
