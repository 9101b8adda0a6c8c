"""The environment of the tests: the same whoever starts them."""

import os
import site

# What changes what programs say, how they show it, and which models and settings they find.
OWN = {
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"),
    *("CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
    *("PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "PYTHONOPTIMIZE", "PYTHONVERBOSE"),
    *("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONSTARTUP"),
    *("SOURCE_DATE_EPOCH", "POSIXLY_CORRECT", "BASH_ENV", "ENV", "CDPATH"),
}
OWN_FAMILIES = (
    *("SPECTRO_RENDER_", "_SPECTRO_RENDER_", "HF_", "HUGGINGFACE_", "XDG_", "RAY_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_"),
)


def clean_environment(home: str) -> None:
    """Forget the user's own settings; must run before the libraries are imported that read them.

    `home` is an empty folder: no model was fetched there, and libraries may write to it.
    """
    for name in [name for name in os.environ if name in OWN or name.startswith(OWN_FAMILIES)]:
        del os.environ[name]
    os.environ["PYTHONUSERBASE"] = site.getuserbase()  # where packages are, of the user's own home
    os.environ["HOME"] = home
    os.environ["OMP_NUM_THREADS"] = "1"  # the fastest for toys, above all on a busy machine
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ[name] = "300"  # seconds until the server of the tests is given up
    os.environ["TERM"] = "dumb"  # whatever is no terminal of a test's own
    os.umask(0o022)
