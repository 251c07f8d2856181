.PHONY: check test docs

check:  ## what CI runs, from the first line to the last
	bash .ci/run

test:  ## the tests of an installed package (pip install -c constraints.txt ".[test]")
	pytest

docs:  ## the documentation, warnings are errors, examples are run
	sphinx-build -W --keep-going -b html docs docs/_build/html
	pytest --doctest-modules --pyargs lauepilot
	sphinx-build -W --keep-going -b doctest docs docs/_build/doctest
