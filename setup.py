"""What pyproject.toml cannot say: the wheel holds one package, with the programs and their YAML inside it.

In a checkout ``pipelines``, ``tools`` and ``configs`` stand beside ``sam_engine``; installed they are
``sam_engine.pipelines`` and so on, for packages of those names would be in everybody's way.
"""

from setuptools import find_packages, setup

PROGRAMS = find_packages(include=["pipelines", "pipelines.*", "tools", "tools.*"])

setup(
    packages=[
        *find_packages(include=["sam_engine", "sam_engine.*"]),
        *(f"sam_engine.{package}" for package in PROGRAMS),
        "sam_engine.configs",
    ],
    package_dir={f"sam_engine.{folder}": folder for folder in ("pipelines", "tools", "configs")},
)
