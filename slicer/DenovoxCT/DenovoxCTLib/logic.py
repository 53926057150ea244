"""Runs denovox in the background and loads its result into the scene of Slicer."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from .command import INPUT, MASK, RESULT, Messages, Refused, findings, manifest, pieces

OLDEST = (3, 11)  # Python that denovox runs on
GRACE_MS = 10000  # between asking a process to stop and killing it


class DenovoxCTLogic(ScriptedLoadableModuleLogic):
    """Runs denovox and loads its result. onLine, onProgress, onEnd are called with a line that was
    printed, with the percentage that is done, and with a sentence on how it ended."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.onLine = self.onProgress = self.onEnd = lambda _: None
        self.process = None

    def install(self, package) -> bool:
        """Install denovox into the Python of Slicer after asking; whether it is there now."""
        if importlib.util.find_spec("denovox") is not None:
            return True
        if sys.version_info < OLDEST:
            raise Refused(
                f"denovox needs Python {OLDEST[0]}.{OLDEST[1]}, and this Slicer has"
                f" {sys.version_info[0]}.{sys.version_info[1]}; use a newer Slicer, or give the"
                " command of a denovox of another Python under Advanced."
            )
        if not slicer.util.confirmOkCancelDisplay(
            f"Install {package} with PyTorch into the Python of Slicer? This downloads up to a few"
            " gigabytes and takes several minutes."
        ):
            return False
        try:
            if importlib.util.find_spec("torch") is None:
                installTorch()
            slicer.util.pip_install(package)
        except Exception as error:
            raise Refused(f"{package} could not be installed: {error}") from error
        importlib.invalidate_caches()
        return True

    def program(self, command) -> list:
        """The words that start denovox. command: of another Python; "" for that of Slicer."""
        words = shlex.split(command, posix=os.name == "posix")
        if not words:
            return [shutil.which("PythonSlicer") or sys.executable, "-m", "denovox"]
        found = shutil.which(words[0].strip('"'))
        if found is None:
            raise Refused(f"{words[0]} is not a program; check the command under Advanced.")
        return [found, *words[1:]]

    def start(self, program, request, volume, mask=None) -> None:
        """Run denovox in the background. mask: a segmentation or label map, or None."""
        if self.process is not None:
            raise Refused("denovox is still running; cancel it first.")
        folder = Path(tempfile.mkdtemp(prefix="denovox-"))
        try:
            words = request.words(folder)
            slicer.util.exportNode(volume, str(folder / INPUT), {"useCompression": 0}, world=True)
            if mask is not None:
                exportMask(mask, volume, str(folder / MASK))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.folder, self.request, self.volume = folder, request, volume
        self.messages, self.printed, self.cancelled = Messages(), b"", False
        self.process = qt.QProcess()
        if program[1:] != ["-m", "denovox"]:  # libraries of Slicer are not those of another Python
            self.process.setProcessEnvironment(environment(slicer.util.startupEnvironment()))
        self.process.connect("readyReadStandardError()", self.onStderr)
        self.process.connect("readyReadStandardOutput()", self.onStdout)
        self.process.connect("finished(int,QProcess::ExitStatus)", self.onFinished)
        self.process.connect("errorOccurred(QProcess::ProcessError)", self.onError)
        self.onLine(shlex.join([*program, *words]))
        self.process.start(program[0], [*program[1:], *words])

    def cancel(self) -> None:
        """Stop denovox, which removes what is unfinished."""
        if self.process is None:
            return
        self.cancelled = True
        if os.name == "nt":  # which has no signal for it
            self.process.kill()
        else:
            self.process.terminate()
            qt.QTimer.singleShot(GRACE_MS, self.process.kill)

    def onStderr(self) -> None:
        """Take what has arrived on stderr."""
        text = self.process.readAllStandardError().data().decode("utf-8", "replace")
        for line in self.messages.feed(text):
            self.onLine(line)
        self.onProgress(self.messages.percent)

    def onStdout(self) -> None:
        """Take what has arrived on stdout: the manifest."""
        self.printed += self.process.readAllStandardOutput().data()

    def onError(self, error) -> None:
        """A program that cannot be started never finishes."""
        if error == qt.QProcess.FailedToStart:
            self.end("denovox could not be started; check the command under Advanced.")

    def onFinished(self, code, status) -> None:
        """Load the result, or say what was wrong."""
        self.onStderr()
        self.onStdout()
        if self.cancelled:
            self.end("Cancelled.")
        elif status != qt.QProcess.NormalExit:
            self.end("denovox was killed; often the memory is not enough.")
        elif code:
            self.end(self.messages.failure(code))
        else:
            try:
                seconds = manifest(self.printed.decode("utf-8"))["cost"]["seconds"]
                result = self.load()
                self.end(f"{result.GetName()}: done in {seconds:.0f} s.")
            except Refused as error:
                self.end(str(error))

    def end(self, sentence) -> None:
        """Forget the process and its files, and say how it ended."""
        self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.onEnd(sentence)

    def load(self):
        """Load the result as a new volume beside the input, and show both; the volume."""
        detected = self.request.command == "detect"
        name = f"{self.volume.GetName()} {self.request.command}"
        result = slicer.util.loadVolume(str(self.folder / RESULT), {"name": name, "show": False})
        slicer.mrmlScene.RemoveNode(result.GetStorageNode())  # its file goes: it is not saved yet
        if detected:
            self.segment(result, name)
        else:  # the window of the input, for a fair comparison
            shown, like = result.GetDisplayNode(), self.volume.GetDisplayNode()
            shown.SetAutoWindowLevel(False)
            shown.SetWindowLevel(like.GetWindow(), like.GetLevel())
        compare(self.volume, result)
        return result

    def segment(self, scores, name):
        """Components as a segmentation on the map of z-scores; None where there are none."""
        x, y, z = scores.GetSpacing()
        found = pieces(slicer.util.arrayFromVolume(scores), x * y * z / 1000, findings(self.folder))
        if not found:
            return None
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} components")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(scores)
        for title, inside in found:
            part = node.GetSegmentation().AddEmptySegment("", title)
            slicer.util.updateSegmentBinaryLabelmapFromArray(
                inside.astype("uint8"), node, part, scores
            )
        return node


def installTorch() -> None:
    """Install PyTorch, for the GPU that is there if the extension PyTorch is installed."""
    try:
        import PyTorchUtils
    except ImportError:
        slicer.util.pip_install("torch")
    else:
        PyTorchUtils.PyTorchUtilsLogic().installTorch()


def environment(variables):
    """Variables as a process takes them."""
    every = qt.QProcessEnvironment()
    for key, value in variables.items():
        every.insert(key, value)
    return every


def exportMask(mask, volume, path) -> None:
    """Write a segmentation or a label map as a label map on the grid of a volume."""
    if not mask.IsA("vtkMRMLSegmentationNode"):
        slicer.util.exportNode(mask, path, world=True)
        return
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    try:
        logic = slicer.modules.segmentations.logic()
        if not logic.ExportVisibleSegmentsToLabelmapNode(mask, labels, volume):
            raise Refused(f"{mask.GetName()} has no visible segment; show one.")
        slicer.util.exportNode(labels, path, world=True)
    finally:
        slicer.mrmlScene.RemoveNode(labels)


def compare(before, after) -> None:
    """Show two volumes side by side, with linked views."""
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    views = (("Red", before), ("Yellow", after))
    for view, volume in views:
        logic = manager.sliceWidget(view).sliceLogic()
        shown = logic.GetSliceCompositeNode()
        shown.SetLinkedControl(True)
        shown.SetHotLinkedControl(True)
        shown.SetBackgroundVolumeID(volume.GetID())
        shown.SetForegroundVolumeID(None)
        logic.GetSliceNode().SetOrientationToAxial()
    manager.sliceWidget("Red").sliceLogic().FitSliceToAll()
