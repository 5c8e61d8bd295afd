"""Find an output folder that a user has named, and its plan."""

from open_diht.common.command_line import WrongUse
from open_diht.common.installation import remedy
from open_diht.common.spelling import spelled
from open_diht.pipelines.manifests.plan import Plan, PlanMismatch, load_plan
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import (
    SEE_TO_OUTPUT,
    StorePath,
    is_local,
    store_errors,
    store_path,
)


def root_of(output: str) -> StorePath:
    """Return the path of the OUTPUT that a user has named. Raise WrongUse if its address is wrong,
    its package is not installed, or its store does not answer."""
    try:
        root = store_path(output)
        with store_errors(root, WrongUse, SEE_TO_OUTPUT):
            root.exists()
    except (ValueError, ImportError) as error:
        if isinstance(error, WrongUse):
            raise
        raise WrongUse(
            f"OUTPUT {output!r} cannot be read ({error}); give a folder, or an address such as"
            f" s3://bucket/folder, whose package is installed: {remedy('cloud')}"
        ) from error
    return root


def plan_of(layout: Layout) -> Plan:
    """Return the plan of an output. Raise WrongUse if there is none."""
    root = layout.root
    if is_local(root) and not root.is_dir():
        raise WrongUse(
            f"OUTPUT {root} does not exist, or is not a folder; name the OUTPUT of a"
            f" `{spelled('filter')}`"
        )
    try:
        return load_plan(layout.plan)
    except FileNotFoundError as error:
        raise WrongUse(
            f"OUTPUT {root} holds no output of `{spelled('filter')}` ({layout.plan} is missing);"
            " name the folder that was its OUTPUT"
        ) from error
    except PlanMismatch as error:
        raise WrongUse(str(error)) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise WrongUse(
            f"{layout.plan} is not a plan of this version ({type(error).__name__}: {error})"
        ) from error
