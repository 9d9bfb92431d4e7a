"""What a run is worth: measures with intervals beside the baselines."""
