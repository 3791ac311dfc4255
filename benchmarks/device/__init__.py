"""What a step of each training and of the fit costs, and what that predicts for GPUs that nobody here has."""
