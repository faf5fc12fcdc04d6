// The pointer over the stage: preview, hold, zoom, pan.
import {panBy} from "./geometry.js";

const DRAG = 4; // pixels before a press becomes a drag

export function watchPointer(main) {
  const {stage, app} = main;
  const {state} = app;
  let press = null;

  const position = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const hit = (event) => {
    if (!main.display || !main.scene?.map || event.target.closest?.("button, input")) return null;
    return main.display.hit(main.scene, ...position(event));
  };

  stage.addEventListener("pointermove", (event) => {
    if (press?.panel && main.display?.canZoom) {
      const [dx, dy] = [event.clientX - press.x, event.clientY - press.y];
      if (press.isDrag || Math.hypot(dx, dy) > DRAG) {
        press.isDrag = true;
        state.set({zoom: panBy(press.panel, press.zoom, dx, dy)});
        return;
      }
    }
    const cell = hit(event);
    state.point(cell?.query ?? null, cell?.key ?? null);
    stage.style.cursor = cell ? "crosshair" : "default";
  });
  stage.addEventListener("pointerleave", () => state.point(null, null));
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest?.("button, input")) return;
    const [x, y] = position(event);
    const panel = main.display?.canZoom ? main.display.panelAt(x, y) : null;
    press = {x: event.clientX, y: event.clientY, panel, zoom: state.values.zoom, cell: hit(event)};
    stage.setPointerCapture?.(event.pointerId);
  });
  stage.addEventListener("pointerup", (event) => {
    const held = press;
    press = null;
    if (!held || held.isDrag || !held.cell) return;
    const cell = hit(event) ?? held.cell;
    const patch = {};
    if (cell.query !== null) patch.query = cell.query;
    patch.key = cell.key;
    state.set(patch);
  });
  stage.addEventListener("pointercancel", () => (press = null));
  stage.addEventListener("wheel", (event) => {
    if (!main.display || !main.scene?.map) return;
    if (main.display.scroll) {
      event.preventDefault();
      main.display.scroll(main.scene, event.deltaY);
      state.touch("scroll");
      return;
    }
    if (!main.display.canZoom) return;
    event.preventDefault();
    const [x, y] = position(event);
    const pixels = event.deltaY * (event.deltaMode === 1 ? 24 : 1);
    app.zoomAt(main.display.panelAt(x, y), 2 ** (-pixels / 240), x, y);
  }, {passive: false});
  stage.addEventListener("dblclick", () => state.set({zoom: {factor: 1, query: 0, key: 0}}));
}
