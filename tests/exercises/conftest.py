"""Each mistake of a module's WRONG is a case of `judged.test_a_plausible_mistake_fails`."""


def pytest_generate_tests(metafunc):
    if "mistake" in metafunc.fixturenames:
        metafunc.parametrize("mistake", metafunc.module.WRONG)
