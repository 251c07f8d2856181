"""Map the root folders into the package: ``simulator/`` is imported as ``lauepilot.simulator``, and so on.

pyproject.toml cannot compute package lists for mapped folders, so these ten lines do (docs/decisions/0002).
"""

from setuptools import find_packages, setup

PARTS = ("simulator", "perception", "envs", "agents", "hardware")

package_dir = {"lauepilot": "src/lauepilot"}
packages = ["lauepilot", *(f"lauepilot.{name}" for name in find_packages("src/lauepilot"))]
for part in PARTS:
    package_dir[f"lauepilot.{part}"] = part
    packages += [f"lauepilot.{part}", *(f"lauepilot.{part}.{name}" for name in find_packages(part))]

setup(package_dir=package_dir, packages=packages)
