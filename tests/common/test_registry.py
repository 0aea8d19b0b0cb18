import subprocess
import sys

import pytest

from gengeo_hf.common import registry
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.registry import Registry, load_plugins


def test_registry_text_entry_is_imported_when_used():
    parts = Registry("shape", {"path": "pathlib:PurePosixPath", "lost": "pathlib:Nothing"})
    assert list(parts) == ["path", "lost"]
    assert parts["path"]("a/b").name == "b"


def test_registry_decorator_adds_part_under_name():
    parts = Registry("shape")

    @parts.register("round")
    def circle():
        return "circle"

    assert parts["round"] is circle
    assert "round" in parts
    assert len(parts) == 1


def test_registry_unknown_name_lists_known_and_near_one():
    parts = Registry("data set", {"cvusa": 1, "cvact": 2})
    with pytest.raises(
        GenGeoError, match=r"unknown data set 'cvsa'; expected one of cvact, cvusa; did you mean 'cvusa'"
    ):
        parts["cvsa"]


def test_registry_taken_name_is_refused_unless_replaced():
    parts = Registry("shape", {"a": 1})
    with pytest.raises(GenGeoError, match="exists"):
        parts.register("a", 2)
    parts.register("a", 2, replace=True)
    assert parts["a"] == 2


def test_registry_module_executed_twice_registers_again():
    parts = Registry("shape")
    for _ in range(2):
        namespace = {"__name__": "mine"}
        exec("def part(): pass", namespace)
        parts.register("part", namespace["part"])


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.delenv(registry.PLUGINS_VARIABLE, raising=False)
    return monkeypatch


def test_load_plugins_file_is_executed_once_and_named_to_children(fresh, tmp_path):
    path = tmp_path / "my_plugin_of_a_test.py"
    path.write_text("import sys\nsys.my_count = getattr(sys, 'my_count', 0) + 1\n")
    fresh.setattr(sys, "my_count", 0, raising=False)
    load_plugins([str(path)])
    load_plugins([str(path)])
    assert sys.my_count == 1
    code = "import sys; from gengeo_hf.common.registry import load_plugins; load_plugins(); print(sys.my_count)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


def test_load_plugins_missing_module_is_one_line(fresh):
    with pytest.raises(GenGeoError, match="the plugin no_such_module cannot be imported: ModuleNotFoundError"):
        load_plugins(["no_such_module"])
    with pytest.raises(GenGeoError, match="there is no file"):
        load_plugins(["./no_such_file.py"])


def test_load_plugins_entry_point_of_installed_package_is_loaded(fresh, tmp_path):
    (tmp_path / "shapes_of_a_test.py").write_text("import sys\nsys.my_entry = True\n")
    folder = tmp_path / "shapes_of_a_test-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes-of-a-test\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[gengeo_hf.plugins]\nshapes = shapes_of_a_test\n")
    fresh.syspath_prepend(str(tmp_path))
    fresh.setattr(sys, "my_entry", False, raising=False)
    load_plugins()
    assert sys.my_entry
