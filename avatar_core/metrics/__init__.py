"""The paper's ten metrics and the errors that need ground truth. Each module names its source."""
