// Two NiiVue canvases, one above the other: the upper one is clipped at the before/after line.
"use strict";

const view = JSON.parse(document.getElementById("view").textContent);
const byId = (id) => document.getElementById(id);
const [under, over] = [byId("under"), byId("over")];
const PRESETS = [
  ["Mediastinum", 400, 40], ["Lung", 1500, -600], ["Liver", 160, 60], ["Brain", 80, 40], ["Bone", 2000, 400],
];
const PLANES = [["Axial", 0], ["Coronal", 1], ["Sagittal", 2], ["All planes", 3]];
const viewers = [];  // one for each image: before, after
let share = 0.5;  // of each plane that shows the image before

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function group(name, ...children) {
  byId("controls").append(make("fieldset", {}, make("legend", {}, name), ...children));
}

// Buttons of which one is pressed; `choose` gets the row of the one that was clicked.
function choice(name, rows, chosen, choose) {
  const buttons = rows.map((row, i) => {
    const button = make("button", { type: "button", "aria-pressed": String(i === chosen) }, row[0]);
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      choose(row);
    });
    return button;
  });
  group(name, ...buttons);
  return buttons;
}

function slider(name, value, move) {
  const input = make("input", {
    type: "range", min: 0, max: 100, step: 1, value: Math.round(100 * value), "aria-label": name, title: name,
  });
  input.addEventListener("input", () => move(input.valueAsNumber / 100));
  return input;
}

// ---- the before/after line ------------------------------------------------------------------------

function tiles() {
  const scale = over.width / over.clientWidth;
  return viewers[1].screenSlices
    .filter((slice) => slice.axCorSag < 3)
    .map((slice) => slice.leftTopWidthHeight.map((pixels) => pixels / scale));
}

function drawLine() {
  if (viewers.length < 2) return;
  const parts = tiles();
  const rectangles = parts.map(([x, y, w, h]) => `M${x + share * w} ${y}H${x + w}V${y + h}H${x + share * w}Z`);
  over.style.clipPath = `path("${rectangles.join("") || "M0 0"}")`;
  const handles = byId("handles");
  while (handles.children.length > parts.length) handles.lastChild.remove();
  while (handles.children.length < parts.length) handles.append(handle(handles.children.length));
  parts.forEach(([x, y, w, h], i) => {
    Object.assign(handles.children[i].style, {
      left: `${x + share * w}px`, top: `${y}px`, height: `${h}px`,
    });
  });
}

function moveLine(to) {
  share = Math.min(1, Math.max(0, to));
  const input = byId("line");
  if (input) input.value = Math.round(100 * share);
  drawLine();
}

function handle(index) {
  const line = make("div");
  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  line.addEventListener("pointermove", (event) => {
    if (!line.hasPointerCapture(event.pointerId)) return;
    const [x, , w] = tiles()[index];
    moveLine((event.clientX - byId("stage").getBoundingClientRect().left - x) / w);
  });
  return line;
}

// ---- cursor and window ----------------------------------------------------------------------------

// Values at the cursor: [name, value, unit] for every image, before and after.
function values() {
  return viewers.flatMap((viewer, i) =>
    viewer.volumes
      .map((image, k) => [view.images[i][k], image])
      .filter(([layer], k) => k === 0 || i === viewers.length - 1)
      .map(([layer, image]) => {
        const voxel = [0, 1, 2].map((a) => Math.round(viewer.scene.crosshairPos[a] * image.dimsRAS[a + 1] - 0.5));
        return [layer.name, image.getValue(...voxel), layer.unit];
      }),
  );
}

function readOut() {
  const [x, y, z] = viewers[0].frac2mm(viewers[0].scene.crosshairPos);
  const place = `R ${x.toFixed(1)}, A ${y.toFixed(1)}, S ${z.toFixed(1)} mm`;
  const shown = values().map(([name, value, unit]) => `${name} ${+value.toFixed(2)}${unit && ` ${unit}`}`);
  byId("readout").textContent = [place, ...shown].join(" · ");
}

function goTo(mm) {
  for (const viewer of viewers) {
    viewer.scene.crosshairPos = viewer.mm2frac(mm);
    viewer.drawScene();
  }
  readOut();
}

function setWindow(width, level) {
  for (const viewer of viewers) {
    viewer.volumes[0].cal_min = level - width / 2;
    viewer.volumes[0].cal_max = level + width / 2;
    viewer.updateGLVolume();
  }
  [byId("width").value, byId("level").value] = [width, level];
}

function windowInput(id, label) {
  const input = make("input", { type: "number", id, step: 10, "aria-label": label });
  input.addEventListener("change", () => {
    for (const button of presets) button.setAttribute("aria-pressed", "false");
    setWindow(Math.max(1, byId("width").valueAsNumber || 1), byId("level").valueAsNumber || 0);
  });
  return input;
}

const STEPS = {  // voxels: right-left, anterior-posterior, superior-inferior
  ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

function onKey(event) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const main = viewers[0];
  main.moveCrosshairInVox(...step);
  goTo(main.frac2mm(main.scene.crosshairPos).slice(0, 3));
}

// ---- start ----------------------------------------------------------------------------------------

let presets = [];

async function viewer(canvas, layers, ids) {
  const nv = new niivue.Niivue({
    backColor: [0, 0, 0, 1], crosshairColor: [0.3, 0.75, 1, 0.8], crosshairWidth: 1, isColorbar: false,
    isRadiologicalConvention: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, show3Dcrosshair: false,
    dragAndDropEnabled: false, loadingText: "", logLevel: "error", viewModeHotKey: "", clipPlaneHotKey: "",
    isForceMouseClickToVoxelCenters: true, isResizeCanvas: true,
  });
  await nv.attachToCanvas(canvas);
  for (const [k, layer] of layers.entries()) {
    const base64 = byId(ids[k]).textContent;
    const image = await niivue.NVImage.loadFromBase64({
      base64, name: `${ids[k]}.nii.gz`, colormap: layer.colour_map, cal_min: layer.low, cal_max: layer.high,
      opacity: layer.opacity, trustCalMinMax: false, colormapNegative: layer.colour_map_negative,
      cal_minNeg: -layer.low, cal_maxNeg: -layer.high,
    });
    image.colormapType = k === 0 ? 0 : 1;  // overlays are transparent below their lower end
    nv.addVolume(image);
  }
  nv.setSliceType(3);
  return nv;
}

async function start() {
  for (const [i, layers] of view.images.entries()) {
    viewers.push(await viewer([under, over][i], layers, layers.map((layer) => layer.id)));
  }
  const last = viewers[viewers.length - 1];
  if (viewers.length === 2) {
    const [first, second] = viewers;
    first.broadcastTo(second, { "2d": true, "3d": false, zoomPan: true, calMin: true, calMax: true });
    second.broadcastTo(first, { "2d": true, "3d": false, zoomPan: true, calMin: true, calMax: true });
    const input = slider("Before/after line", share, moveLine);
    input.id = "line";
    group(`${view.images[0][0].name} / ${view.images[1][0].name}`, input);
    const draw = second.drawScene.bind(second);
    second.drawScene = () => { const drawn = draw(); drawLine(); return drawn; };
    new ResizeObserver(() => requestAnimationFrame(drawLine)).observe(byId("stage"));
  } else {
    over.remove();
  }
  choice("Planes", PLANES, 3, ([, type]) => {
    for (const nv of viewers) nv.setSliceType(type);
    last.drawScene();
  });
  const { width, level } = view.window;
  const known = PRESETS.findIndex((row) => row[1] === width && row[2] === level);
  presets = choice("Window", PRESETS, known, ([, wide, centre]) => setWindow(wide, centre));
  group("HU", windowInput("width", "Window width in HU"), windowInput("level", "Window level in HU"));
  view.images[view.images.length - 1].slice(1).forEach((layer, k) => {
    const label = `Opacity of ${layer.name}`;
    const turn = (opacity) => viewers.forEach((nv) => nv.setOpacity(k + 1, opacity));
    group(layer.name, slider(label, layer.opacity, turn));
  });
  for (const nv of viewers) nv.onLocationChange = readOut;
  for (const canvas of [under, over]) {
    canvas.addEventListener("keydown", onKey, true);
    canvas.setAttribute("aria-label", "Image planes; arrow keys and Page Up, Page Down move the cursor");
  }
  over.tabIndex = -1;  // one stop is enough for both
  for (const button of document.querySelectorAll("[data-mm]")) {
    button.addEventListener("click", () => {
      goTo(JSON.parse(button.dataset.mm));
      byId("viewer").scrollIntoView();
      under.focus();
    });
  }
  setWindow(width, level);
  goTo(view.start_mm);
  byId("viewer").dataset.state = "ready";
  drawLine();
}

// For tests and for people who script the page.
window.denovox = { goTo, values, moveLine, viewers };
start().catch((error) => {
  byId("viewer").dataset.state = "failed";
  byId("status").textContent = `The images cannot be displayed (${error.message || error}); this needs WebGL 2.`;
});
