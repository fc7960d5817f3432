"""PURE: what calls cost, what they may cost, and who may pay for it. Decimals in, decimals out; never floats."""
