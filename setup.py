"""The one thing pyproject.toml cannot say: the native shim is a cffi module."""

from setuptools import setup

setup(cffi_modules=["vfs_volatile/native/build_shim.py:ffi"])
