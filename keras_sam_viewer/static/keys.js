// The keyboard.

export const KEY_HELP = [
  ["← → ↑ ↓", "move key and query (with Shift: by 10); in the matrix: the head"],
  ["Enter, click", "hold the cell; Esc lets it go"],
  [", .", "step back, step on; space plays"],
  ["[ ]", "head before, head after"],
  ["{ }", "layer before, layer after"],
  ["m l c", "Map, Lines, Compare"],
  ["r", "set or clear the reference"],
  ["p", "pin this head"],
  ["+ − 0", "zoom in, zoom out, whole map (wheel zooms, drag pans)"],
  ["s", "next scale"],
  ["t", "light or dark"],
  ["?", "this help"],
];

export function watchKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.closest?.("select, textarea, input:not([type=range])");
    if (isTyping) return;
    const isButton = event.target.closest?.("button, summary");
    const action = actionOf(app, event, Boolean(isButton), event.target.matches?.("input[type=range]"));
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(app, event, isOnButton, isOnSlider) {
  const {state, main} = app;
  const by = event.shiftKey ? 10 : 1;
  switch (event.key) {
    case "ArrowLeft": return isOnSlider ? null : () => app.moveCell(0, -by);
    case "ArrowRight": return isOnSlider ? null : () => app.moveCell(0, by);
    case "ArrowUp": return isOnSlider ? null : () => app.moveCell(-by, 0);
    case "ArrowDown": return isOnSlider ? null : () => app.moveCell(by, 0);
    case "Enter": return isOnButton ? null : () => app.holdFocus();
    case "Escape": return () => app.release();
    case ",": return () => app.moveStep(-1);
    case ".": return () => app.moveStep(1);
    case " ": return isOnButton ? null : () => app.foot.toggle();
    case "[": return () => app.moveHead(0, -1);
    case "]": return () => app.moveHead(0, 1);
    case "{": return () => app.moveHead(-1, 0);
    case "}": return () => app.moveHead(1, 0);
    case "m": return () => state.set({view: "map"});
    case "l": return () => state.set({view: "lines"});
    case "c": return () => state.set({view: "compare"});
    case "s": return () => state.set({scale: state.values.scale === "log" ? "linear" : "log"});
    case "r": return () => app.setReference();
    case "p": return () => app.pin();
    case "t": return () => app.toggleTheme();
    case "+": case "=": return () => main.zoomBy(1.5);
    case "-": return () => main.zoomBy(1 / 1.5);
    case "0": return () => state.set({zoom: {factor: 1, query: 0, key: 0}});
    case "?": return () => app.help.toggle();
    default: return null;
  }
}
