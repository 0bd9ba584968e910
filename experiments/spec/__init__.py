"""What a run is: the configuration, its types, its checks."""
