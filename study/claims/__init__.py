"""A module per claim: `arms(track, scale, data)` lists the arms, `run(arm, data)` runs one. The
others are helpers."""
