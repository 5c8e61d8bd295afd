"""One module a claim: `arms(scale, data)` says what is tried, `run(arm, data)` tries it."""
