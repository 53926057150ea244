"""3D Slicer module that runs denovox on a CT volume in the background."""

from __future__ import annotations

import ctk
import qt
import slicer
from DenovoxCTLib.command import DEVICES, REGIONS, TASKS, Refused, Request
from DenovoxCTLib.logic import DenovoxCTLogic
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class DenovoxCT(ScriptedLoadableModule):
    """The module, as Slicer lists it."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Denovox CT"
        self.parent.categories = ["Filtering"]
        self.parent.contributors = ["The denovox contributors"]
        self.parent.helpText = (
            "Denoises CT, makes thin slices from thick ones, maps anomalies, and replaces regions"
            " by healthy tissue. For research only; not a medical device."
        )


# ---- the panel ----------------------------------------------------------------------------------


class DenovoxCTWidget(ScriptedLoadableModuleWidget):
    """The panel: what to run, on which volume, and how far it is."""

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = DenovoxCTLogic()
        self.logic.onLine = self.onLine
        self.logic.onProgress = self.onProgress
        self.logic.onEnd = self.onEnd
        self.form = self.section("Run")
        self.input = self.nodes(["vtkMRMLScalarVolumeNode"])
        self.mask = self.nodes(["vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"], none=True)
        self.task = self.choice([task.title for task in TASKS.values()])
        self.region = self.choice(REGIONS)
        self.device = self.choice(DEVICES)
        self.factor = qt.QDoubleSpinBox()
        self.factor.minimum, self.factor.maximum, self.factor.value = 1.1, 20.0, 2.0
        rows = (
            ("Volume:", self.input),
            ("Task:", self.task),
            ("Region:", self.region),
            ("Segmentation:", self.mask),
            ("Slices per slice:", self.factor),
            ("Device:", self.device),
        )
        for label, widget in rows:
            self.form.addRow(label, widget)
        advanced = self.section("Advanced", collapsed=True)
        self.extra = self.line("Options of the command line, such as --noise-hu 20")
        self.command = self.line("A denovox of another Python; empty: the Python of Slicer")
        self.package = self.line("What is installed into the Python of Slicer", "denovox")
        advanced.addRow("Extra options:", self.extra)
        advanced.addRow("Command:", self.command)
        advanced.addRow("Package:", self.package)
        self.apply, self.cancel = qt.QPushButton("Apply"), qt.QPushButton("Cancel")
        self.bar, self.log = qt.QProgressBar(), qt.QPlainTextEdit()
        self.log.readOnly = True
        self.status = qt.QLabel("")
        self.status.wordWrap = True
        for widget in (self.apply, self.cancel, self.bar, self.status, self.log):
            self.layout.addWidget(widget)
        self.layout.addStretch(1)
        self.apply.connect("clicked()", self.onApply)
        self.cancel.connect("clicked()", self.logic.cancel)
        self.task.connect("currentIndexChanged(int)", self.onTask)
        self.onTask()
        self.running(False)

    def section(self, title, collapsed=False):
        """The form of a new section of the panel."""
        box = ctk.ctkCollapsibleButton()
        box.text, box.collapsed = title, collapsed
        self.layout.addWidget(box)
        return qt.QFormLayout(box)

    def nodes(self, kinds, none=False):
        """A list of the nodes of some kinds. none: whether none may be chosen."""
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes, box.noneEnabled = kinds, none
        box.addEnabled = box.removeEnabled = False
        box.setMRMLScene(slicer.mrmlScene)
        return box

    def choice(self, texts):
        """A list of texts to choose from."""
        box = qt.QComboBox()
        box.addItems(list(texts))
        return box

    def line(self, about, text=""):
        """A line of text with an explanation."""
        edit = qt.QLineEdit(text)
        edit.toolTip = about
        edit.placeholderText = about
        return edit

    def request(self) -> Request:
        """What the panel asks for."""
        return Request(
            command=list(TASKS)[self.task.currentIndex],
            region=self.region.currentText,
            device=self.device.currentText,
            factor=self.factor.value,
            masked=self.mask.currentNode() is not None,
            extra=self.extra.text,
        )

    def onTask(self, *_) -> None:
        """Enable what the task has."""
        task = TASKS[list(TASKS)[self.task.currentIndex]]
        self.region.enabled = task.region
        self.factor.enabled = task.factor
        self.mask.enabled = bool(task.mask)

    def onApply(self) -> None:
        """Install denovox if need be, and run it."""
        self.log.clear()
        try:
            if self.input.currentNode() is None:
                raise Refused("Choose a volume.")
            if not self.command.text.strip() and not self.logic.install(self.package.text.strip()):
                return
            program = self.logic.program(self.command.text)
            mask = self.mask.currentNode() if self.mask.enabled else None
            self.logic.start(program, self.request(), self.input.currentNode(), mask)
        except Refused as error:
            self.say(str(error))
            return
        self.running(True)
        self.say("Running ...")

    def running(self, now) -> None:
        """Show whether denovox is running."""
        self.apply.enabled, self.cancel.enabled = not now, now
        self.bar.value = 0

    def say(self, sentence) -> None:
        """Show one sentence."""
        self.status.text = sentence

    def onLine(self, line) -> None:
        """Show a line that denovox has printed."""
        self.log.appendPlainText(line)

    def onProgress(self, percent) -> None:
        """Show how much is done."""
        self.bar.value = percent

    def onEnd(self, sentence) -> None:
        """Show how it ended."""
        self.running(False)
        self.say(sentence)

    def cleanup(self) -> None:
        """Slicer closes, or the module is reloaded."""
        self.logic.cancel()


# ---- its test ----------------------------------------------------------------------------------


class DenovoxCTTest(ScriptedLoadableModuleTest):
    """Run inside Slicer; denovox has to be installed there."""

    def runTest(self) -> None:
        """Denoise a small cylinder, from the scene to the scene."""
        import numpy as np

        slicer.mrmlScene.Clear()
        up, front, right = np.ogrid[-6:6, -24:24, -24:24]
        hu = np.where(front**2 + right**2 + 0 * up < 400, 40, -1000).astype(np.int16)
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "cylinder")
        slicer.util.updateVolumeFromArray(volume, hu)
        volume.SetSpacing(5.0, 5.0, 5.0)
        volume.CreateDefaultDisplayNodes()
        logic, ended = DenovoxCTLogic(), []
        logic.onEnd = ended.append
        request = Request("denoise", region="chest", device="cpu", extra="--noise-hu 20")
        logic.start(logic.program(""), request, volume)
        while not ended:
            slicer.app.processEvents()
        result = slicer.util.getNode("cylinder denoise")
        assert "done in" in ended[0], ended
        assert slicer.util.arrayFromVolume(result).shape == hu.shape
        self.delayDisplay("Test passed")
