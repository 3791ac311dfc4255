"""The instruments: small networks trained once on procedural people used nowhere else, kept as versioned assets."""

from avatar_core.perception.instruments import Critics, load_critics
from avatar_core.perception.layout import LAYOUT, Layout

__all__ = ["LAYOUT", "Critics", "Layout", "load_critics"]
