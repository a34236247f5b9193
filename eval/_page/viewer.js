// SPDX-License-Identifier: Apache-2.0
// Two versions of a picture on top of each other, with a slider that wipes between them.

/**
 * A viewer for the pictures of one run.
 *
 * @param {HTMLElement} place where it goes
 * @param {object} run with `pictures` and `metrics`
 * @param {{src: string, width: number, height: number, note: string}[]} files the page's pictures
 * @returns {(picture: number, left: number, right: number) => void} shows a picture and two of its versions
 */
function showViewer(place, run, files) {
  const state = { picture: 0, left: 0, right: 1, zoom: 0 };
  const stage = makeStage();
  const comparison = element("div", { class: "comparison" });
  const caption = element("p", { class: "note", "aria-live": "polite" });

  const update = () => {
    const picture = run.pictures[state.picture];
    const versions = versionsOf(picture);
    // Another picture may have fewer versions.
    state.left = Math.min(state.left, versions.length - 1);
    state.right = Math.min(state.right, versions.length - 1);
    const names = versions.map(({ label }) => label);
    setEntries(leftMenu, names, state.left);
    setEntries(rightMenu, names, state.right);
    const [left, right] = [versions[state.left], versions[state.right]];
    stage.show(picture.name, left, right, files);
    comparison.replaceChildren(compareValues(left, right, run.metrics));
    caption.textContent = describeLosses(left, right, files);
  };
  const chooser = (field) => (index) => {
    state[field] = index;
    update();
  };
  const pictureMenu = menu(run.pictures.map(({ name }) => name), chooser("picture"));
  const leftMenu = menu([], chooser("left"));
  const rightMenu = menu([], chooser("right"));
  const zooms = [null, 1, 2, 4];
  const zoomNames = ["Whole", "1 : 1", "2 : 1", "4 : 1"];
  const zoomMenu = menu(zoomNames, (index) => stage.setZoom(zooms[index]));
  const swap = element(
    "button",
    {
      type: "button",
      class: "swap",
      on: {
        click: () => {
          [state.left, state.right] = [state.right, state.left];
          update();
        },
      },
    },
    "Swap sides",
  );
  place.append(
    element(
      "div",
      { class: "toolbar" },
      labelled("Picture", pictureMenu),
      labelled("Left", leftMenu),
      labelled("Right", rightMenu),
      labelled("Size", zoomMenu),
      swap,
    ),
    stage.node,
    caption,
    comparison,
  );
  update();
  stage.start();
  return (picture, left, right) => {
    Object.assign(state, { picture, left, right });
    pictureMenu.selectedIndex = picture;
    update();
  };
}

/** The versions of a picture, the original first. */
function versionsOf(picture) {
  const original = { label: "Original", file: picture.original, bits_per_pixel: null, metrics: {} };
  return [original, ...picture.versions];
}

function describeLosses(left, right, files) {
  const lossy = [...new Set([left, right])].filter(({ file }) => files[file].note);
  if (lossy.length === 0) return "Both sides are shown without further loss.";
  const sentences = lossy.map(({ label, file }) => `${label}: ${files[file].note}.`);
  return `${sentences.join(" ")} Fine differences may be due to that.`;
}

/** Bits per pixel and metrics of both sides; the better value of a metric is marked. */
function compareValues(left, right, metrics) {
  const measured = Object.entries(metrics).filter(([key]) =>
    [left, right].some((version) => isMeasured(version.metrics[key])),
  );
  const rates = [left.bits_per_pixel ?? null, right.bits_per_pixel ?? null];
  const rows = [
    ...(rates.some(isNumber) ? [valueRow("Bits per pixel", ...rates, { unit: "" }, false)] : []),
    ...measured.map(([key, metric]) => {
      const arrow = { true: "↑", false: "↓" }[metric.higher_is_better] ?? "";
      const [a, b] = [left.metrics[key], right.metrics[key]];
      return valueRow(`${metric.title} ${arrow}`, a, b, metric, metric.higher_is_better);
    }),
  ];
  const head = [left.label, right.label].map((label) => element("th", { scope: "col", class: "number" }, verbatim(label)));
  if (rows.length === 0) return "";
  return element(
    "table",
    {},
    element("caption", { class: "hidden" }, "Values of both sides"),
    element("thead", {}, element("tr", {}, element("th", { scope: "col", class: "text" }, "Side"), ...head)),
    element("tbody", {}, ...rows),
  );
}

function valueRow(name, left, right, metric, higherIsBetter) {
  const cell = (own, other) => {
    const differ = isMeasured(own) && isMeasured(other) && own !== other;
    const wins = differ && own > other === higherIsBetter;
    const text = formatMetric(own, metric);
    if (!wins) return element("td", { class: "number" }, text);
    const mark = element("span", { class: "hidden" }, " (better)");
    return element("td", { class: "number" }, element("strong", {}, text), mark);
  };
  return element(
    "tr",
    {},
    element("th", { scope: "row", class: "text" }, name),
    cell(left, right),
    cell(right, left),
  );
}

/** The two pictures, their names and the slider. */
function makeStage() {
  const images = { left: element("img", { draggable: "false" }), right: element("img", { draggable: "false" }) };
  const chips = { left: element("span", { class: "chip left" }), right: element("span", { class: "chip right" }) };
  const canvas = element("div", { class: "canvas" }, images.left, images.right);
  const frame = element("div", { class: "frame" }, canvas);
  const handle = element("div", {
    class: "handle",
    role: "slider",
    tabindex: "0",
    "aria-label": "Border between the left and the right picture",
    "aria-orientation": "horizontal",
    "aria-valuemin": "0",
    "aria-valuemax": "100",
  });
  const stage = element("div", { class: "stage" }, frame, chips.left, chips.right, handle);
  const node = element("div", { class: "stage-place" }, stage);
  const state = { split: 50, zoom: null, width: 1, height: 1 };

  const setSplit = (split) => {
    state.split = Math.min(100, Math.max(0, split));
    const visible = frame.clientWidth;
    const offset = (state.split / 100) * visible;
    handle.style.left = `${offset}px`;
    // The border stays where it is on the screen while the picture scrolls below it.
    images.right.style.clipPath = `inset(0 0 0 ${frame.scrollLeft + offset}px)`;
    const rounded = Math.round(state.split);
    handle.setAttribute("aria-valuenow", String(rounded));
    handle.setAttribute(
      "aria-valuetext",
      `${rounded} % ${chips.left.textContent}, ${100 - rounded} % ${chips.right.textContent}`,
    );
  };

  const layOut = () => {
    const room = node.clientWidth;
    if (room === 0) return;
    const aspect = state.width / state.height;
    const fit = Math.min(room, 0.8 * window.innerHeight * aspect, 2 * state.width);
    // A pixel of the picture is one of the screen, which has several to a CSS pixel on phones.
    const width = state.zoom === null ? fit : (state.width * state.zoom) / window.devicePixelRatio;
    const scrolls = width > fit;
    stage.classList.toggle("scrolls", scrolls);
    stage.classList.toggle("magnified", state.zoom !== null && state.zoom > 1);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${width / aspect}px`;
    // Enlarged pictures take all the room there is.
    frame.style.width = `${scrolls ? Math.min(room, width) : width}px`;
    frame.style.height = `${Math.min(width, scrolls ? Math.max(fit, 240) : fit) / aspect}px`;
    setSplit(state.split);
  };

  const splitAt = (event) => {
    const box = frame.getBoundingClientRect();
    setSplit((100 * (event.clientX - box.left)) / frame.clientWidth);
  };
  listenToPointer(stage, frame, handle, splitAt);
  frame.addEventListener("scroll", () => setSplit(state.split));
  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const targets = {
      ArrowLeft: state.split - step,
      ArrowDown: state.split - step,
      ArrowRight: state.split + step,
      ArrowUp: state.split + step,
      PageDown: state.split - 10,
      PageUp: state.split + 10,
      Home: 0,
      End: 100,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    setSplit(targets[event.key]);
  });

  const fill = (side, name, version, files) => {
    const file = files[version.file];
    if (images[side].getAttribute("src") !== file.src) images[side].src = file.src;
    images[side].alt = `${name}, ${version.label}`;
    chips[side].replaceChildren(verbatim(version.label));
  };
  return {
    node,
    show(name, left, right, files) {
      fill("left", name, left, files);
      fill("right", name, right, files);
      const { width, height } = files[left.file];
      Object.assign(state, { width, height });
      layOut();
    },
    setZoom(zoom) {
      state.zoom = zoom;
      layOut();
      frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2;
      frame.scrollTop = (frame.scrollHeight - frame.clientHeight) / 2;
    },
    start() {
      let seen = 0;
      new ResizeObserver(() => {
        if (node.clientWidth === seen) return;
        seen = node.clientWidth;
        requestAnimationFrame(layOut);
      }).observe(node);
      layOut();
    },
  };
}

/** Dragging wipes; where the picture is larger than its frame, only the handle does, and the rest pans. */
function listenToPointer(stage, frame, handle, splitAt) {
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const onHandle = handle.contains(event.target);
    if (stage.classList.contains("scrolls") && !onHandle) {
      // Touch pans by itself, and the scroll bars are not ours.
      const onScrollBar = event.offsetX > frame.clientWidth + frame.scrollLeft;
      if (event.pointerType !== "mouse" || onScrollBar) return;
      drag = { x: event.clientX + frame.scrollLeft, y: event.clientY + frame.scrollTop };
    } else {
      drag = "wipe";
      splitAt(event);
    }
    stage.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    if (drag === "wipe") splitAt(event);
    else frame.scrollTo(drag.x - event.clientX, drag.y - event.clientY);
  });
  const stop = () => {
    drag = null;
  };
  stage.addEventListener("pointerup", stop);
  stage.addEventListener("pointercancel", stop);
}
