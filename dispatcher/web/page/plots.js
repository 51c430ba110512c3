// Small plots on canvas: a line of the last two minutes. Drawn once per second, whatever arrives.

const SECONDS = 120;
const MOST_SECONDS_BRIDGED = 10;

/** The last values of a figure, one per second. */
export class Series {
  values = new Array(SECONDS).fill(null);

  /** Add the value of this second; null if there is none. */
  push(value) {
    this.values.push(value);
    this.values.shift();
  }
}

/** A colour of the style sheet, by its name, in the current scheme. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
}

/** A context in CSS pixels, sharp on any screen, and empty. */
export function fresh(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Draw series as lines from zero to their common highest value, the first one filled. */
export function plot(canvas, ...series) {
  const { context, width, height } = fresh(canvas);
  const most = Math.max(1, ...series.flatMap(({ values }) => values));
  const x = (index) => (index / (SECONDS - 1)) * (width - 2) + 1;
  const y = (value) => height - 1.5 - (value / most) * (height - 4);
  context.strokeStyle = colour("line");
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(0, height - 0.5);
  context.lineTo(width, height - 0.5);
  context.stroke();
  context.lineJoin = context.lineCap = "round";
  for (const [number, { values }] of series.entries()) {
    const line = new Path2D();
    const area = new Path2D();
    let last = -Infinity;
    for (const [index, value] of values.entries()) {
      if (value === null) continue;
      // A line across a long silence would show values that were never measured.
      if (index - last > MOST_SECONDS_BRIDGED) {
        if (last >= 0) area.lineTo(x(last), height - 1);
        line.moveTo(x(index), y(value));
        area.moveTo(x(index), height - 1);
      }
      line.lineTo(x(index), y(value));
      area.lineTo(x(index), y(value));
      last = index;
    }
    if (last < 0) continue;
    area.lineTo(x(last), height - 1);
    context.fillStyle = context.strokeStyle = colour(number === 0 ? "accent" : "quiet");
    context.globalAlpha = 0.12;
    if (number === 0) context.fill(area);
    context.globalAlpha = number === 0 ? 1 : 0.45;
    context.lineWidth = number === 0 ? 1.5 : 1;
    context.stroke(line);
    context.globalAlpha = 1;
  }
}
