"""What happens, in order? One file per stage; `pipeline.py` is the table of contents."""
