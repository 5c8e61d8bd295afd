"""Search for duplicates in order: pairs, then images, then similar images, each among the rows that
are left.

If the image pages of a Parquet file are damaged, its captions are intact, and spotting was not
requested, a row turns out to be unreadable only when it is written out. Such rows take part in the
search and end up in the dead-letter table.

Duplicates of a kind are rejected if stage `dedup` is requested and the preset says so. Others are
looked for only where they serve something: pairs and images that stage `spotting` has read serve a
remark at the end of the run, uids of several different rows serve subset.npy of stage `export`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from open_diht.filters.dedup import DuplicateCounts
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import DuplicateFiles, DuplicateFindings, Made, RunStage
from open_diht.pipelines.stages.decontamination import IMAGE_HASHES
from open_diht.pipelines.stages.dedup.clusters import faiss
from open_diht.pipelines.stages.dedup.exact import ranges_of
from open_diht.pipelines.stages.dedup.exact_stages import KeyStage, RangeStage, keys_stage
from open_diht.pipelines.stages.dedup.findings import (
    IMAGE,
    PAIR,
    SEMANTIC,
    UID,
    part_name,
)
from open_diht.pipelines.stages.dedup.semantic import groups_of
from open_diht.pipelines.stages.dedup.semantic_stages import (
    CENTROIDS,
    EMBEDDINGS_STAGE,
    CentroidStage,
    EmbeddingStage,
    GroupStage,
    MemberStage,
    Stored,
)
from open_diht.pipelines.stages.encoders import find_encoder
from open_diht.pipelines.stages.images import images_at_hand
from open_diht.pipelines.stages.score.stored import IMAGES, SCORE
from open_diht.pipelines.store.records import Fingerprints, fingerprint_of

VERSION = 4  # increase it when equal survivors may be compared differently
MEMORY = 512 * 2**20
"""Most bytes that a range of keys or an average group of clusters should take."""
_ROWS_PER_WORKER = 500_000  # with fewer rows, starting a worker takes longer than the keys do


class Deduplication(RunStage):
    """The search for duplicates in one run."""

    name = "dedup"
    opens_loose = False

    def __init__(self, made: Made):
        self.settings = made.settings
        self._work = made.work
        self._own = made.filters
        self._states = made.states
        self.layout = made.work.layout
        self._images = images_at_hand(self.layout, made.work.plan.images)
        self.rule = made.settings.preset.dedup
        self.asked = self.runs(made.settings)
        self._found: tuple[DuplicateFiles, ...] = ()
        self._counts: dict[str, DuplicateCounts] = {}
        self._rejecting: list[str] = []
        self._models: dict[str, Mapping[str, str]] = {}

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Check before the run that semantic deduplication has faiss and the encoder."""
        if plan is None and cls.runs(settings) and settings.preset.dedup.semantic:
            faiss()
            find_encoder(settings.preset.dedup.encoder)

    @classmethod
    def contribute(cls, made: Made) -> None:
        made.findings = cls(made).find()

    @classmethod
    def count(cls, made: Made, funnel: FunnelRecord) -> None:
        funnel["duplicates"] = {**made.findings.counts}

    def find(self) -> DuplicateFindings:
        """Find the duplicates of each kind that applies. Raise RunFailed if a unit fails that all
        others need, such as a range or a group."""
        names = self._work.alive(self._states)
        pairs = self.asked and self.rule.pairs
        own, without_url = (
            self._work.total("captions", names, of) for of in ("own_uids", "without_url")
        )
        self._exact(PAIR, rejects=pairs, read=pairs and self._images and without_url > 0)
        # Otherwise equal uids mean equal pairs. Of several captions the first is in the uid, all
        # are in the pair.
        differ = own or without_url or self.settings.dataset.several_captions
        if differ and "export" in self.settings.stages:
            self._exact(UID, rejects=False, read=False)
        if self._images:
            images = self.asked and self.rule.images
            if images or "spotting" in self.settings.stages:
                self._exact(IMAGE, rejects=images, read=images)
            if self.asked and self.rule.semantic:
                self._semantic()
        self._work.models["dedup"] = self._models
        return DuplicateFindings(self._found, fingerprint_of(self._rejecting), self._counts)

    # ---- exact

    def _exact(self, kind: str, *, rejects: bool, read: bool) -> None:
        """Find the duplicates of a kind. `read` says whether to read images that stage `spotting`
        has not read."""
        settings = self.settings
        # Spotting records already have the digests.
        quick = not read or "spotting" in settings.stages
        before = fingerprint_of(VERSION, kind, self._rejecting, read)
        known = {
            unit: fingerprint_of(before, fingerprint) for unit, fingerprint in self._states.items()
        }
        stage = KeyStage(
            self.layout,
            settings.dataset,
            settings.preset,
            settings.stages,
            kind,
            self._found,
            read,
            Fingerprints.published(self.layout, keys_stage(kind), known),
            self._own,
        )
        self._do(stage, self._work.alive(self._states), quick=quick)
        names = self._work.alive(self._states)
        rows = self._work.total(stage.name, names)
        ranges = ranges_of(rows, MEMORY)
        everything = fingerprint_of([known[unit] for unit in names], ranges)
        finder = RangeStage(
            self.layout, kind, ranges, frozenset(self._work.quarantined), everything
        )
        self._conclude(kind, finder, ranges, everything, compared=rows, rejects=rejects)

    def _conclude(
        self,
        kind: str,
        finder: Stage,
        files: int,
        fingerprint: str,
        *,
        compared: int,
        rejects: bool,
    ) -> None:
        """Find the duplicates of a kind in all of its files, and remember them for the kinds that
        follow."""
        names = [part_name(number) for number in range(files)]
        self._do(finder, names, quick=True, fatal=True)
        found = self._work.total(finder.name, names)
        self._counts[kind] = {"compared": compared, "found": found, "rejected": rejects}
        self._found += (DuplicateFiles(kind, files, rejects),)
        if rejects:
            self._rejecting += [kind, fingerprint]

    # ---- semantic

    def _semantic(self) -> None:
        rule = self.rule
        names = self._work.alive(self._states)
        encoder = self._models["encoder"] = find_encoder(rule.encoder).identity()
        competing = {
            unit: fingerprint_of(VERSION, self._rejecting, self._states[unit]) for unit in names
        }
        scored, seen = (self._work.models.get(name, {}) for name in (SCORE, IMAGE_HASHES))
        if scored.get("encoder") == encoder and SCORE in self.settings.stages:
            # Stage score has embedded the images.
            stored = Stored(SCORE, IMAGES)
            embedding = scored["fingerprint"]
        elif seen.get("encoder") == encoder:
            stored = Stored(IMAGE_HASHES)
            embedding = seen["fingerprint"]
        else:
            dataset = self.settings.dataset
            # Relative paths mean other files below another --images-root.
            stored = Stored()
            embedding = fingerprint_of(encoder, dataset.images_root)
            covers = Fingerprints.published(self.layout, EMBEDDINGS_STAGE, competing)
            stage = EmbeddingStage(
                self.layout, self._found, dataset, rule.encoder, embedding, covers
            )
            self._do(stage, self._work.image_units(names))
        names = self._work.alive(self._states)
        everything = fingerprint_of(embedding, asdict(rule), [competing[unit] for unit in names])
        skip = frozenset(self._work.quarantined)
        trainer = CentroidStage(self.layout, self._found, stored, rule, skip, everything)
        self._do(trainer, [CENTROIDS], fatal=True)
        ((_, record),) = self._work.committed(CENTROIDS, [CENTROIDS])
        clusters = max(1, record["clusters"])
        dimension = record["dimension"]
        groups = groups_of(record["rows"], clusters, dimension, MEMORY)
        everything = fingerprint_of(everything, groups)
        members = MemberStage(self.layout, self._found, stored, groups, everything)
        self._do(members, names, fatal=True)
        finder = GroupStage(self.layout, rule, groups, dimension, skip, everything)
        compared = self._work.total(members.name, names)
        self._conclude(SEMANTIC, finder, groups, everything, compared=compared, rejects=True)
        self._counts[SEMANTIC] |= {"clusters": clusters, "eps": rule.eps}

    def _do(
        self, stage: Stage, names: Sequence[str], *, quick: bool = False, fatal: bool = False
    ) -> None:
        """Process the units of a stage that are not done. `quick`: the units take so little time
        that few workers suffice. `fatal`: the run ends if a unit fails."""
        work = self._work
        quiet = quick or (stage.name != EMBEDDINGS_STAGE and work.plan.rows < _ROWS_PER_WORKER)
        few = max(1, min(work.workers, -(-work.plan.rows // _ROWS_PER_WORKER)))
        work.complete(stage, names, quiet=quiet, workers=few if quick else None, fatal=fatal)
