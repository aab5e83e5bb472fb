"""What watches a training run without taking part in it."""
