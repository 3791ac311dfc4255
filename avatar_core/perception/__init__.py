"""The instruments: small networks trained once on procedural people used nowhere else, kept as versioned assets."""
