import subprocess
import sys


def test_without_tensorflow_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import ptsne_keras\n"
        "try: ptsne_keras.ParametricTSNE\n"
        "except ModuleNotFoundError as error: assert 'ptsne_keras[cpu]' in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_is_quick():
    """TensorFlow takes seconds, so it waits until something needs it."""
    code = "import sys, ptsne_keras; assert 'tensorflow' not in sys.modules; dir(ptsne_keras)"
    subprocess.run([sys.executable, "-c", code], check=True)
