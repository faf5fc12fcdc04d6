// Pictures from data URLs, decoded once.

const images = new Map(); // url -> {image, isReady, waiting}

/** The decoded picture, or null until it is there; then `redraw` is called. */
export function pictureOf(picture, redraw) {
  const url = picture?.url;
  if (typeof url !== "string" || !url.startsWith("data:image/")) return null;
  if (!images.has(url)) {
    const image = new Image();
    const entry = {image, isReady: false, waiting: new Set()};
    images.set(url, entry);
    image.onload = () => {
      entry.isReady = true;
      for (const call of entry.waiting) call();
      entry.waiting.clear();
    };
    image.src = url;
  }
  const entry = images.get(url);
  if (!entry.isReady) entry.waiting.add(redraw);
  return entry.isReady ? entry.image : null;
}
