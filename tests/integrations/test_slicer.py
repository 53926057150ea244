"""The extension of 3D Slicer: its command line modules, what it does without Slicer, and the rest.

Slicer cannot be installed here. In the last part a few classes take the place of its Python API, so
that part shows what is called, and not that Slicer does what it should.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from denovox.cli.main import main
from denovox.core.volume import Volume
from denovox.inference.anomaly.components import LIMITS, numbered

SLICER = Path(__file__).parents[2] / "slicer"
SCRIPTS = sorted((SLICER / "cli").glob("*.py"))
MODULES = sorted((SLICER / "cli").glob("*.xml"))
generate = SimpleNamespace(**runpy.run_path(str(SLICER / "generate_cli.py")))
NEEDED = {"denoise": (), "superres": (), "detect": (), "inpaint": ("mask",), "synthesize": ()}


def stem(path: Path) -> str:
    return path.stem


# ---- command line modules -----------------------------------------------------------------------


def test_the_modules_are_those_of_the_commands(request):
    if request.config.getoption("--write-docs"):
        generate.write()
    found = {path.name: path.read_text() for path in (SLICER / "cli").iterdir() if path.is_file()}
    assert found == generate.files(), "run: python slicer/generate_cli.py"


def parameters(path: Path) -> list[ET.Element]:
    return [
        each
        for group in ET.parse(path).getroot().iter("parameters")
        for each in group
        if each.tag not in ("label", "description")
    ]


@pytest.mark.parametrize("path", MODULES, ids=stem)
def test_a_description_is_one_that_slicer_accepts(path):
    """The rules of SlicerExecutionModel's ModuleDescriptionParser."""
    root = ET.parse(path).getroot()
    assert root.tag == "executable"
    head = [each.tag for each in root if each.tag != "parameters"]
    assert head == (
        "category title description version documentation-url license contributor".split()
    )
    for group in root.iter("parameters"):
        assert [each.tag for each in group][:2] == ["label", "description"]
    names = [one.findtext("name") for one in parameters(path)]
    assert len(names) == len(set(names))
    indices = []
    for one in parameters(path):
        assert one.tag in ("integer", "string", "boolean", "string-enumeration", "image")
        assert re.fullmatch(r"[A-Za-z_]\w*", one.findtext("name"))
        assert one.findtext("label")
        assert one.findtext("description")
        flag, index = one.findtext("longflag"), one.findtext("index")
        assert (flag is None) != (index is None)
        indices += [] if index is None else [int(index)]
        if one.tag == "image":
            assert one.findtext("channel") in ("input", "output")
            assert one.get("fileExtensions") in (".nrrd", ".nii.gz")
        if one.tag == "string-enumeration":
            assert one.findtext("default") in [each.text for each in one.iter("element")]
        if one.tag == "integer":
            int(one.findtext("default"))
    assert indices == list(range(len(indices)))


def slicers_words(path: Path, images: dict[str, str]) -> list[str]:
    """The command line that Slicer builds: empty strings and unchecked boxes are left out, numbers
    and choices never. images: files by the names of parameters."""
    flagged, indexed = [], []
    for one in parameters(path):
        name, flag = one.findtext("name"), one.findtext("longflag")
        value = images.get(name, "") if one.tag == "image" else one.findtext("default")
        if flag is None:
            indexed.append(value)
        elif one.tag == "boolean":
            flagged += [flag] if value == "true" else []
        elif value:
            flagged += [flag, value]
    return flagged + indexed


@pytest.mark.parametrize("path", MODULES, ids=stem)
def test_the_command_line_of_slicer_has_the_defaults_of_the_command(path, tmp_path, monkeypatch):
    monkeypatch.delenv("DENOVOX_PRECISION", raising=False)
    name = path.stem.removeprefix("Denovox").lower()
    command = main.commands[name]
    images = {each: f"{tmp_path}/{each}" for each in ("input", "output", *NEEDED[name])}
    arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
    plain = [images[each] for each in arguments]
    plain += [f"--{each}={images[each]}" for each in NEEDED[name]]
    built = slicers_words(path, images)
    assert len(built) > len(plain)
    assert (
        command.make_context(name, built).params == command.make_context(name, list(plain)).params
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=stem)
def test_a_script_runs_its_command_and_passes_its_progress_on(path, tmp_path, capfd, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho $*; echo '7 %' >&2; echo 'denovox: no' >&2; exit 2\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(sys, "argv", [str(path), "--region", "chest", "a.nrrd", "b c.nii.gz"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 2
    printed = capfd.readouterr()
    command = path.stem.removeprefix("Denovox").lower()
    assert f"-m denovox {command} --force" in printed.out
    assert printed.out.splitlines()[0].endswith("--region chest a.nrrd b c.nii.gz")
    assert "<filter-progress>0.07</filter-progress>" in printed.out
    assert printed.err == "denovox: no\n"


def test_a_script_describes_itself(capfd, monkeypatch):
    for path in SCRIPTS:
        monkeypatch.setattr(sys, "argv", [str(path), "--xml"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
        assert capfd.readouterr().out == path.with_suffix(".xml").read_text()


def corners(image: sitk.Image) -> np.ndarray:
    """The lowest and the highest coordinates of voxel centres, mm; the order of axes is free."""
    ends = [image.TransformIndexToPhysicalPoint(at) for at in ((0, 0, 0), (23, 23, 15))]
    assert image.GetSize() == (24, 24, 16)
    return np.sort(ends, 0)


@pytest.mark.slow
def test_a_script_denoises_a_file_of_slicer(tmp_path, tiny):
    x, y, _ = np.meshgrid(*(np.arange(n) - n / 2 + 0.5 for n in (24, 24, 16)), indexing="ij")
    image = sitk.GetImageFromArray(np.where(np.hypot(x, y) < 9, 40, -1000).astype(np.int16).T)
    image.SetSpacing((6.0, 6.0, 6.0))
    sitk.WriteImage(image, str(tmp_path / "in.nrrd"))
    words = ["--region", "chest", "--noise-hu", "20", "--weights", str(tiny), "--device", "cpu"]
    files = [str(tmp_path / "in.nrrd"), str(tmp_path / "out.nii.gz")]
    script = SLICER / "cli" / "DenovoxDenoise.py"
    done = subprocess.run(
        [sys.executable, str(script), *words, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shares = [float(each) for each in re.findall(r"<filter-progress>(.*?)<", done.stdout)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert np.allclose(corners(sitk.ReadImage(files[1])), corners(image), atol=1e-4)


# ---- without Slicer -----------------------------------------------------------------------------

sys.path.insert(0, str(SLICER / "DenovoxCT"))
from DenovoxCTLib import command as lib  # noqa: E402

sys.path.remove(str(SLICER / "DenovoxCT"))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (lib.Request("denoise", "chest", extra="--noise-hu 20"), {"noise_hu": 20.0}),
        (lib.Request("denoise", masked=True), {}),
        (lib.Request("superres", factor=2.5), {"factor": 2.5, "region": "auto"}),
        (lib.Request("detect", masked=True), {"roi": lib.MASK, "report": lib.FINDINGS}),
        (lib.Request("detect", device="cpu"), {"roi": None, "device": "cpu"}),
        (lib.Request("inpaint", masked=True, extra="--jumps '1x1'"), {"jumps": "1x1"}),
    ],
)
def test_a_request_becomes_a_command_line(request_, expected, tmp_path):
    words = request_.words(tmp_path)
    command = main.commands[words[0]]
    found = command.make_context(words[0], words[1:]).params
    paths = {"input": lib.INPUT, "output": lib.RESULT, **expected}
    for name, value in paths.items():
        path = tmp_path / value if isinstance(found[name], Path) else value
        assert found[name] == path, name
    assert found["as_json"]
    assert found["progress"] == "plain"


def test_tasks_have_the_options_of_their_commands():
    for name, task in lib.TASKS.items():
        options = {each for param in main.commands[name].params for each in param.opts}
        assert ("--region" in options) == task.region
        assert ("--factor" in options) == task.factor
        assert not task.mask or task.mask in options
    region = next(p for p in main.commands["denoise"].params if p.name == "region")
    assert tuple(region.type.choices) == lib.REGIONS


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (lib.Request("inpaint"), "Choose a segmentation"),
        (lib.Request("denoise", extra="--series 'x"), "No closing quotation"),
    ],
)
def test_what_does_not_fit_together_is_refused(request_, says, tmp_path):
    with pytest.raises(lib.Refused, match=says):
        request_.words(tmp_path)


def test_messages_are_the_same_however_they_arrive():
    text = "0 %\nregions: chest\n41 %\r\n7 %\nnoise 20 HU at 5 %\n\n99 %\n98 %\nlast"
    for size in (1, 2, 3, 5, len(text)):
        messages = lib.Messages()
        new = []
        for start in range(0, len(text), size):
            new += messages.feed(text[start : start + size])
        assert new == messages.lines == ["regions: chest", "noise 20 HU at 5 %"]
        assert messages.percent == 99
        assert messages.rest == "last"


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("denovox: a is empty; copy it", 2, "a is empty; copy it"),
        ("/bin/python: No module named denovox", 1, "press Apply again to install it"),
        ("ValueError: x", 1, r"exit code 1 \(ValueError: x\)"),
    ],
)
def test_a_failure_is_one_sentence(line, code, says):
    messages = lib.Messages()
    messages.feed(f"note\n{line}\n")
    assert re.search(says, messages.failure(code))
    assert "nothing" in lib.Messages().failure(1)


def test_only_a_manifest_is_a_manifest():
    assert lib.manifest('{"format": 1}') == {"format": 1}
    for wrong in ("", "x", "3", "[1]"):
        with pytest.raises(lib.Refused, match="no manifest"):
            lib.manifest(wrong)


def scores() -> tuple[Volume, dict[str, Any]]:
    """A map of z-scores with components of both signs, some too small, and its findings."""
    z = np.random.default_rng(3).uniform(-3, 3, (24, 20, 16)).astype(np.float32)
    z[2:5, 2:5, 2:5], z[5, 5, 5] = 6, 8  # touch at a corner
    z[12:16, 4:8, 4:8] = -7
    z[12:16, 8:10, 4:8] = 5
    z[2:20, 18, 14] = 9  # a tube
    z[20, 15, 10:12] = 12
    z[2, 15, 10] = 20  # 0.027 mL
    volume = Volume(z, np.diag([3.0, 3.0, 3.0, 1.0]))
    labels = numbered(volume, LIMITS)
    listed = [
        {
            "peak_z": float(z[labels == n][np.abs(z[labels == n]).argmax()]),
            "volume_ml": float((labels == n).sum()) * 0.027,
            "mean_hu": 40.0,
            "tissue": "lung",
        }
        for n in range(1, int(labels.max()) + 1)
    ]
    return volume, {"threshold": LIMITS.z, "components": listed}


def test_components_are_those_of_denovox():
    volume, found = scores()
    assert len(found["components"]) == 4
    kji = np.ascontiguousarray(volume.hu.T)  # the axes of Slicer
    pieces = lib.pieces(kji, 0.027, found)
    labels = numbered(volume, LIMITS)
    for number, (name, inside) in enumerate(pieces, 1):
        assert np.array_equal(inside.T, labels == number), name
        assert name.startswith(f"{number}: z {found['components'][number - 1]['peak_z']:.1f}, ")
    assert lib.pieces(kji, 0.027, {**found, "components": []}) == []
    with pytest.raises(lib.Refused, match="do not belong together"):
        lib.pieces(kji, 0.027, {**found, "components": [{**found["components"][0], "peak_z": 1}]})


# ---- with classes in place of Slicer's ----------------------------------------------------------


class Widget:
    """A widget of Qt, ctk or Slicer: it keeps what is set, and ignores other calls."""

    def __init__(self, text: str = "") -> None:
        self.text, self.items, self.currentIndex, self.node = text, [], 0, None
        self.signals: dict[str, Any] = {}

    def connect(self, signal: str, slot: Any) -> None:
        self.signals[signal] = slot

    def addItems(self, items: list[str]) -> None:
        self.items = items

    @property
    def currentText(self) -> str:
        return self.items[self.currentIndex]

    def currentNode(self) -> Any:
        return self.node

    def appendPlainText(self, line: str) -> None:
        self.text += f"{line}\n"

    def clear(self) -> None:
        self.text = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


class Process(Widget):
    """QProcess, driven by the test."""

    NormalExit, CrashExit, FailedToStart = "normal", "crash", "failed"
    running: list[Process] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.stdout, self.stderr, self.stopped = b"", b"", ""
        self.environment = None

    def start(self, program: str, words: list[str]) -> None:
        self.program, self.words = program, words
        Process.running.append(self)

    def setProcessEnvironment(self, environment: Any) -> None:
        self.environment = environment

    def readAllStandardOutput(self) -> Any:
        taken, self.stdout = self.stdout, b""
        return SimpleNamespace(data=lambda: taken)

    def readAllStandardError(self) -> Any:
        taken, self.stderr = self.stderr, b""
        return SimpleNamespace(data=lambda: taken)

    def terminate(self) -> None:
        self.stopped += "terminate "

    def kill(self) -> None:
        self.stopped += "kill "

    def says(self, stderr: bytes) -> None:
        self.stderr += stderr
        self.signals["readyReadStandardError()"]()

    def ends(self, code: int, stdout: bytes = b"", status: str = NormalExit) -> None:
        self.stdout += stdout
        self.signals["finished(int,QProcess::ExitStatus)"](code, status)


class Node(Widget):
    """A node of the scene. array: of a volume, in Slicer's axes."""

    def __init__(self, name: str, array: Any = None, kind: str = "vtkMRMLScalarVolumeNode") -> None:
        super().__init__()
        self.name, self.array, self.kind, self.display = name, array, kind, Widget()
        self.segments: dict[str, Any] = {}
        self.display.GetWindow, self.display.GetLevel = (lambda: 350.0), (lambda: 40.0)
        self.display.SetWindowLevel = lambda *both: setattr(self.display, "window", both)

    def GetName(self) -> str:
        return self.name

    def GetID(self) -> str:
        return f"ID {self.name}"

    def GetDisplayNode(self) -> Any:
        return self.display

    def GetStorageNode(self) -> str:
        return f"storage of {self.name}"

    def GetSpacing(self) -> tuple[float, float, float]:
        return (3.0, 3.0, 3.0)

    def IsA(self, kind: str) -> bool:
        return kind == self.kind

    def GetSegmentation(self) -> Any:
        return SimpleNamespace(AddEmptySegment=lambda _, title: title)


@pytest.fixture
def world(monkeypatch, tmp_path):
    """The module, imported with these in place of Slicer; `made`: what it has done."""
    made = SimpleNamespace(asked=[], installed=[], nodes=[], removed=[], loaded={}, views={})
    util = SimpleNamespace(
        exportNode=lambda node, path, properties=None, world=False: Path(path).write_text(
            node.name
        ),
        loadVolume=lambda path, properties: load(path, properties),
        arrayFromVolume=lambda node: node.array,
        confirmOkCancelDisplay=lambda text: made.asked.append(text) or made.answer,
        pip_install=made.installed.append,
        startupEnvironment=lambda: {"HOME": "/root"},
        updateSegmentBinaryLabelmapFromArray=lambda array, node, part, like: node.segments.update(
            {part: array}
        ),
    )

    def load(path: str, properties: dict[str, Any]) -> Node:
        image = nibabel.load(path)
        node = Node(properties["name"], np.asarray(image.dataobj).T)
        made.loaded[node.name] = properties
        return node

    def view(name: str) -> Any:
        slot = made.views.setdefault(name, Widget())
        slot.SetBackgroundVolumeID = lambda ID: setattr(slot, "background", ID)
        slot.SetLinkedControl = lambda on: setattr(slot, "linked", on)
        node = Widget()
        logic = Widget()
        logic.GetSliceCompositeNode, logic.GetSliceNode = lambda: slot, lambda: node
        return SimpleNamespace(sliceLogic=lambda: logic)

    def add(kind: str, name: str = "") -> Node:
        made.nodes.append(Node(name, kind=kind))
        return made.nodes[-1]

    made.answer = True
    logic = SimpleNamespace(ExportVisibleSegmentsToLabelmapNode=lambda *_: made.answer)
    slicer = ModuleType("slicer")
    slicer.util = util
    slicer.mrmlScene = SimpleNamespace(AddNewNodeByClass=add, RemoveNode=made.removed.append)
    slicer.modules = SimpleNamespace(segmentations=SimpleNamespace(logic=lambda: logic))
    slicer.vtkMRMLLayoutNode = SimpleNamespace(SlicerLayoutSideBySideView=29)
    manager = SimpleNamespace(setLayout=lambda n: setattr(made, "layout", n), sliceWidget=view)
    slicer.app = SimpleNamespace(layoutManager=lambda: manager)
    slicer.qMRMLNodeComboBox = Widget
    base = ModuleType("slicer.ScriptedLoadableModule")

    class Base(Widget):
        def __init__(self, parent: Any = None) -> None:
            super().__init__()
            self.parent, self.layout = parent, Widget()

        def setup(self) -> None: ...

    for name in ("", "Logic", "Test", "Widget"):
        setattr(base, f"ScriptedLoadableModule{name}", type(name, (Base,), {}))
    names = "QDoubleSpinBox QPushButton QProgressBar QPlainTextEdit QLabel QComboBox QLineEdit"
    names += " QFormLayout QProcessEnvironment QTimer"
    qt = SimpleNamespace(**dict.fromkeys(names.split(), Widget), QProcess=Process)
    qt.QTimer = SimpleNamespace(singleShot=lambda ms, slot: made.removed.append(slot))
    ctk = SimpleNamespace(ctkCollapsibleButton=Widget)
    for name, module in (("slicer", slicer), (base.__name__, base), ("qt", qt), ("ctk", ctk)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(SLICER / "DenovoxCT")
    for name in ("DenovoxCT", "DenovoxCTLib", "DenovoxCTLib.command", "DenovoxCTLib.logic"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Process.running.clear()
    made.module = importlib.import_module("DenovoxCT")
    made.panel = made.module.DenovoxCTWidget()
    made.panel.setup()
    made.panel.input.node = Node("thorax")
    made.files = lambda: sorted(path.name for path in tmp_path.glob("denovox-*/*"))
    yield made
    for name in ("DenovoxCT", "DenovoxCTLib", "DenovoxCTLib.command", "DenovoxCTLib.logic"):
        sys.modules.pop(name, None)


def run(world: Any, task: str = "denoise") -> Process:
    """Press Apply."""
    world.panel.task.currentIndex = list(lib.TASKS).index(task)
    world.panel.onTask()
    world.panel.onApply()
    assert len(Process.running) == 1, world.panel.status.text
    return Process.running[0]


DONE = json.dumps({"cost": {"seconds": 12.3}}).encode()


def result_of(process: Process, values: np.ndarray) -> Path:
    path = Path(process.words[process.words.index("--json") - 1])
    nibabel.Nifti1Image(values, np.diag([3.0, 3.0, 3.0, 1.0])).to_filename(path)
    return path


def test_a_result_appears_beside_its_volume(world):
    panel, process = world.panel, run(world)
    assert not panel.apply.enabled
    assert panel.cancel.enabled
    assert world.files() == ["input.nrrd"]
    process.says(b"3 %\nnoise 20 H")
    process.says(b"U\n50 %\n")
    assert panel.bar.value == 50
    assert "noise 20 HU\n" in panel.log.text
    result_of(process, np.zeros((4, 4, 4), np.float32))
    process.ends(0, DONE)
    assert panel.status.text == "thorax denoise: done in 12 s."
    assert panel.apply.enabled
    assert world.files() == []
    assert world.loaded == {"thorax denoise": {"name": "thorax denoise", "show": False}}
    backgrounds = {name: view.background for name, view in world.views.items()}
    assert backgrounds == {"Red": "ID thorax", "Yellow": "ID thorax denoise"}
    assert all(view.linked for view in world.views.values())
    assert world.layout == 29
    (stored,) = world.removed  # its file is gone, so that Slicer has to save it elsewhere
    assert stored == "storage of thorax denoise"


def test_a_detection_becomes_a_segmentation(world):
    volume, found = scores()
    process = run(world, "detect")
    path = result_of(process, volume.hu)
    path.with_name(lib.FINDINGS).write_text(json.dumps(found))
    process.ends(0, DONE)
    (node,) = world.nodes
    assert node.name == "thorax detect components"
    labels = numbered(volume, LIMITS)
    assert len(node.segments) == labels.max() == 4
    for number, inside in enumerate(node.segments.values(), 1):
        assert np.array_equal(inside.T > 0, labels == number)


@pytest.mark.parametrize(
    ("code", "stdout", "status", "says"),
    [
        (2, b"", "normal", "thorax is not a CT; give one"),
        (1, b"", "normal", "denovox failed with exit code 1"),
        (9, b"", "crash", "the memory is not enough"),
        (0, b"{", "normal", "no manifest"),
    ],
)
def test_a_run_that_fails_is_one_sentence(code, stdout, status, says, world):
    process = run(world)
    process.says(b"denovox: thorax is not a CT; give one\n")
    process.ends(code, stdout, status)
    assert says in world.panel.status.text
    assert world.files() == []
    assert not world.loaded
    assert world.panel.apply.enabled


def test_cancel_ends_the_process(world):
    process = run(world)
    world.panel.cancel.signals["clicked()"]()
    assert process.stopped.startswith("terminate")
    process.ends(143)
    assert world.panel.status.text == "Cancelled."
    assert world.files() == []


def test_a_mask_is_written_on_the_grid_of_the_volume(world):
    world.panel.mask.node = Node("lesion", kind="vtkMRMLSegmentationNode")
    process = run(world, "inpaint")
    assert world.files() == ["input.nrrd", "mask.nrrd"]
    assert process.words[process.words.index("--mask") + 1].endswith("mask.nrrd")
    assert world.removed == world.nodes  # the label map in between
    process.ends(143)
    world.panel.mask.node, world.answer = Node("lesion", kind="vtkMRMLSegmentationNode"), False
    world.panel.onApply()
    assert world.panel.status.text == "lesion has no visible segment; show one."
    assert world.files() == []


def test_denovox_is_installed_after_asking(world, monkeypatch):
    find = importlib.util.find_spec
    gone = {"denovox", "torch"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in gone else find(n))
    world.answer = False
    world.panel.onApply()
    assert not Process.running
    assert not world.installed
    world.answer = True
    process = run(world)
    assert world.installed == ["torch", "denovox"]
    assert len(world.asked) == 2
    assert process.words[:3] == ["-m", "denovox", "denoise"]
    assert process.environment is None


def test_a_denovox_of_another_python_needs_no_installation(world, tmp_path, monkeypatch):
    program = tmp_path / "denovox"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    world.panel.command.text = str(program)
    process = run(world)
    assert not world.asked
    assert process.program == str(program)
    assert process.words[0] == "denoise"
    assert process.environment is not None
    process.ends(143)
    world.panel.command.text = "/nowhere/denovox"
    world.panel.onApply()
    assert world.panel.status.text == (
        "/nowhere/denovox is not a program; check the command under Advanced."
    )


def test_an_old_slicer_is_refused(world, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 9, 10))
    world.panel.onApply()
    assert world.panel.status.text.startswith("denovox needs Python 3.11, and this Slicer has 3.9")


def test_no_volume_is_refused(world):
    world.panel.input.node = None
    world.panel.onApply()
    assert world.panel.status.text == "Choose a volume."
    assert not Process.running
