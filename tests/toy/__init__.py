"""A project small enough for tests: 64 px, one category, few images, real stages."""

from tests.toy.project import clone, make_project, toy_params, write_params

__all__ = ["clone", "make_project", "toy_params", "write_params"]
