"""The parts of the figures, a module each.

A part has

- `MINUTES: float`: what it takes on two cores,
- `PEERS: str | None`: the environment of its peers, `benchmarks/figures/peers/NAME.in` and `.txt`,
- `KIND: str`, where it is not "time": "quality" for figures that no other load can change,
- `measure(quick: bool, work: Path) -> list[Figure]`: `work` is an empty folder that is removed
  after the part. The command runs it in a process of its own, with one thread for numeric
  libraries and the repository as the working directory.

With `quick` a part takes some seconds, and sides whose environment is not made are left out
(`peers.is_made`). The first figure of `captions`, `ocr` and `score` is drawn in README's chart,
with all of its sides.
"""
