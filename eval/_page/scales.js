// SPDX-License-Identifier: Apache-2.0
// Scales of axes and the looks of series.

/**
 * A scale from values to pixels.
 *
 * @param {number[]} values what has to fit
 * @param {[number, number]} range pixels of its ends
 * @param {{log?: boolean, fromZero?: boolean, ticks: number}} options
 * @returns {{at: (value: number) => number, ticks: {value: number, text: string}[]}}
 */
function makeScale(values, range, { log = false, fromZero = false, ticks }) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (log) {
    const margin = Math.max((high / low) ** 0.04, 1.02);
    low /= margin;
    high *= margin;
    const place = linear(Math.log(low), Math.log(high), range);
    return { at: (value) => place(Math.log(value)), ticks: labelTicks(logTicks(low, high, ticks)) };
  }
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  low = fromZero && low >= 0 ? 0 : low - margin;
  high += margin;
  return { at: linear(low, high, range), ticks: labelTicks(linearTicks(low, high, ticks)) };
}

function linear(low, high, [start, end]) {
  return (value) => start + ((value - low) / (high - low)) * (end - start);
}

/** About `count` round numbers from `low` to `high`. */
function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  // Whole multiples, so that 0.30000000000000004 does not arise by adding up.
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

/** Powers of ten with as many steps between them as there is room for. */
function logTicks(low, high, count) {
  for (const factors of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      found.push(...factors.map((factor) => factor * 10 ** power));
    }
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length <= count + 1) return inside.length >= 2 ? inside : linearTicks(low, high, count);
  }
  const decades = [];
  const step = Math.ceil(Math.log10(high / low) / count);
  for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power += step) {
    decades.push(10 ** power);
  }
  return decades;
}

function labelTicks(values) {
  const largest = Math.max(...values.map(Math.abs));
  const short = values.map((value) => Number(value.toPrecision(12)));
  if (largest >= 1e6 || largest < 1e-3) {
    return short.map((value) => ({ value, text: String(value === 0 ? 0 : value.toExponential()).replaceAll("-", "−") }));
  }
  return short.map((value) => ({ value, text: String(value).replaceAll("-", "−") }));
}

// Shapes as SVG paths around the origin; they tell series apart without their colours.
const MARKERS = [
  "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
  "M-4,-4H4V4H-4Z",
  "M0,-5.5L5.2,4H-5.2Z",
  "M0,-6L5.2,0L0,6L-5.2,0Z",
  "M0,5.5L5.2,-4H-5.2Z",
  "M-1.7,-5.2H1.7V-1.7H5.2V1.7H1.7V5.2H-1.7V1.7H-5.2V-1.7H-1.7Z",
  "M0,-6L1.6,-2L5.8,-1.8L2.5,0.8L3.6,5L0,2.6L-3.6,5L-2.5,0.8L-5.8,-1.8L-1.6,-2Z",
  "M-5.4,-2.6L-2.6,-5.4L0,-2.8L2.6,-5.4L5.4,-2.6L2.8,0L5.4,2.6L2.6,5.4L0,2.8L-2.6,5.4L-5.4,2.6L-2.8,0Z",
];

/** Colour, shape and dashes of the series number `index`; all three differ for longest. */
function seriesLook(index) {
  const round = Math.floor(index / MARKERS.length);
  return {
    colour: `var(--series-${index % MARKERS.length})`,
    // Further rounds pair the colours with other shapes.
    marker: MARKERS[(index + 3 * round) % MARKERS.length],
    dashes: [null, "6 4", "2 3"][round % 3],
  };
}

/** A marker at a place. */
function drawMarker(look, x, y, size = 1) {
  return svgElement("path", {
    d: look.marker,
    transform: `translate(${x.toFixed(2)},${y.toFixed(2)}) scale(${size})`,
    class: "marker",
    style: `fill: ${look.colour}; color: ${look.colour}`,
  });
}
