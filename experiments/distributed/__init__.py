"""One run over several processes: starting them, keeping them in step, dividing data and weights among them."""
