"""Mounts with and without access control lists; that tmpfs has them so: parity/test_acls."""

from __future__ import annotations

import os

import pytest

from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.errnos import errno_of
from tests.support.mount import MountFactory

VALUE = acl("u:rwx,u5:rwx,g:rwx,m:rwx,o:")


@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_noacl(mount: MountFactory, name: str) -> None:
    here = mount(o="noacl").path
    for path in (here, here / "dir"):
        path.mkdir(exist_ok=True)
        assert errno_of(os.setxattr, path, name, VALUE) == "EOPNOTSUPP"
        assert errno_of(os.getxattr, path, name) == "EOPNOTSUPP"
        assert errno_of(os.removexattr, path, name) == "EOPNOTSUPP"
        assert os.listxattr(path) == []


def test_the_umask_counts_without_lists_too(mount: MountFactory) -> None:
    before = os.umask(0o027)
    try:
        for options in ("noacl", "acl"):
            here = mount(o=options).path
            (here / "dir").mkdir(0o777)
            assert os.stat(here / "dir").st_mode & 0o7777 == 0o750
    finally:
        os.umask(before)


def test_what_is_made_in_the_root_inherits_its_list(mount: MountFactory) -> None:
    here = mount().path
    os.setxattr(here, DEFAULT, VALUE)
    (here / "dir").mkdir()
    assert os.getxattr(here / "dir", ACCESS) == VALUE


def test_the_list_of_the_root_counts_and_no_other_is_taken_for_it(mount: MountFactory) -> None:
    """The shim answers that there is none until the root is given one, and until a file is."""
    here = mount().path
    assert errno_of(os.getxattr, here, ACCESS) == "ENODATA"
    os.setxattr(here, ACCESS, VALUE)
    assert os.getxattr(here, ACCESS) == VALUE
    (here / "dir").mkdir()
    assert errno_of(os.getxattr, here / "dir", ACCESS) == "ENODATA"
    other = mount().path
    (other / "dir").mkdir()
    os.setxattr(other / "dir", ACCESS, VALUE)
    assert os.getxattr(other / "dir", ACCESS) == VALUE
    assert errno_of(os.getxattr, other, ACCESS) == "ENODATA"
    os.setxattr(other, DEFAULT, VALUE)
    (other / "new").mkdir()
    assert os.getxattr(other / "new", DEFAULT) == VALUE
    assert os.listxattr(other / "new") == [ACCESS, DEFAULT]
