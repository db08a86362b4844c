pytest_plugins = "pytester"


def pytest_addoption(parser):
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="try every strategy with every kind of model in every mode (half an hour)",
    )
