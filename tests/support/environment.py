"""The environment of the tests, which does not depend on who starts them."""

import os
import site

# Variables that change the output of programs, or the models and settings that they find.
OWN = {
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"),
    *("CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
    *("PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "PYTHONOPTIMIZE", "PYTHONVERBOSE"),
    *("PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONPROFILEIMPORTTIME", "PYTHONSTARTUP"),
    *("SOURCE_DATE_EPOCH", "POSIXLY_CORRECT", "BASH_ENV", "ENV", "CDPATH"),
}
ONLINE = "SPECTRO_RENDER_ONLINE"  # 1: the test that fetches the published model is run
OWN_FAMILIES = (
    *("SPECTRO_RENDER_", "_SPECTRO_RENDER_", "HF_", "HUGGINGFACE_", "XDG_", "RAY_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_"),
)


def clean_environment(home: str) -> None:
    """Remove the user's settings. Call it before importing the libraries that read them.

    `home` is an empty folder without models, to which libraries may write.
    """
    for name in [name for name in os.environ if name in OWN or name.startswith(OWN_FAMILIES)]:
        if name != ONLINE:
            del os.environ[name]
    os.environ["PYTHONUSERBASE"] = site.getuserbase()  # packages in the user's real home folder
    os.environ["HOME"] = home
    os.environ["OMP_NUM_THREADS"] = "1"  # fastest for tiny models, especially on a busy machine
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # Ray's 15 more than ours starve beside busy processes
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ[name] = "300"  # seconds to wait for the server of the tests
    os.environ["TERM"] = "dumb"  # for programs without a terminal made by a test
    os.umask(0o022)
