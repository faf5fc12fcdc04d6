"""What the command `python -m keras_sam.darknet` does, one module for each verb."""
