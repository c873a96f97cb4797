"""What each training stage teaches: one file per task. `chain/stages.py` names them."""
