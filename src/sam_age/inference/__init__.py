"""What sam-infer does: a mode's results for many pictures, written so that a run can be stopped and gone on with."""
