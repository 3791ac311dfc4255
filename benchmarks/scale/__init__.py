"""How far the pipeline scales: costs of a finished run, multiplied; a simulation of its scheduler; what gives way first."""
