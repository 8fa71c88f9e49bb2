"""Fine-tuning: one loop that does not know which algorithm it runs.

Read `fit.py` first, then `trainer.py` and `update.py`; `preparation/` is what is settled before the
first step, `step_size/` chooses the rate, `monitor/` evaluates while training. It imports
everything below it but `moments`.
"""
