// What the server gives is either {source}, the address of the chosen file, or {answer, tokens, curves}, as `told` in
// __init__.py makes it. Whatever a person or a model wrote becomes text of the page, never HTML.
const find = (name) => element.querySelector(name);
const player = () => find("video.player");

const make = (tag, className, text, more = {}) => {
  const made = Object.assign(document.createElement(tag), { className, ...more });
  if (text !== undefined) made.textContent = text;
  return made;
};

const clock = (seconds) => `${seconds.toFixed(2)} s`;
// of a recorder's WebM the browser says Infinity
const length = () => [find(".timeline").seconds, player().duration].find((each) => each > 0 && each < Infinity) || 0;
const percent = (seconds) => `${(100 * Math.min(Math.max(seconds / (length() || 1), 0), 1)).toFixed(3)}%`;

function seek(seconds) {
  player().currentTime = seconds;
  player().play().catch(() => {}); // refused where the file cannot be played, which the page says already
}

// ------------------------------------------------------------------------------------------------ the timeline

function drawAxis() {
  const wanted = find(".timeline").clientWidth / 80;
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
  const step = steps.find((each) => length() / each <= wanted) || 14400;
  const ticks = [];
  for (let at = 0; at <= length() && length() > 0; at += step) {
    const minutes = `${Math.floor(at / 60)}:${String(Math.floor(at % 60)).padStart(2, "0")}`;
    const tick = make("span", at + step / 3 > length() ? "tick last" : "tick", length() < 60 ? `${at} s` : minutes);
    tick.style.left = percent(at);
    ticks.push(tick);
  }
  find(".axis").replaceChildren(...ticks);
}

function drawCurves(curves) {
  const most = Math.max(0, ...curves.flatMap((curve) => [...curve.start, ...curve.end]));
  const lines = curves.flatMap((curve) =>
    ["start", "end"].map((kind) => {
      const points = curve.seconds.map((at, k) => `${parseFloat(percent(at)) * 10},${100 - (92 * curve[kind][k]) / most}`);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
      line.setAttribute("class", kind);
      line.setAttribute("points", `0,100 ${points.join(" ")} 1000,100`);
      return line;
    }),
  );
  find(".curves").replaceChildren(...lines);
  find(".most").textContent = curves.length ? `highest: ${most.toFixed(2)}` : "";
  find(".legend").hidden = !curves.length;
}

function drawSpans(answer) {
  const lanes = []; // the end of the last span in each: those that overlap stand below each other
  const narrowest = (26 * length()) / find(".timeline").clientWidth; // of a button, in seconds
  const buttons = answer.spans.map((span, k) => {
    let lane = lanes.findIndex((end) => end < span.start);
    if (lane < 0) lane = lanes.length;
    lanes[lane] = Math.max(span.end, span.start + narrowest);
    const button = make("button", "span", `${k + 1}`, { type: "button", onclick: () => seek(span.start) });
    button.setAttribute("aria-label", `Span ${k + 1}, play from ${clock(span.start)} to ${clock(span.end)}`);
    button.title = `${clock(span.start)} to ${clock(span.end)}`;
    button.style.left = `min(${percent(span.start)}, 100% - 24px)`;
    button.style.width = `calc(${percent(span.end)} - ${percent(span.start)})`;
    button.style.top = `${lane * 30}px`;
    return button;
  });
  find(".spans").style.height = `${Math.max(lanes.length, 1) * 30}px`;
  find(".spans").replaceChildren(...buttons);
}

// -------------------------------------------------------------------------------------------------- the answer

function copy(button, text) {
  const label = button.dataset.label || (button.dataset.label = button.textContent);
  const say = (told) => {
    button.textContent = told;
    setTimeout(() => (button.textContent = label), 1500);
  };
  navigator.clipboard.writeText(text).then(() => say("Copied"), () => say("The browser refused"));
}

function show({ answer, tokens, curves }) {
  find(".timeline").seconds = answer.duration_seconds;
  drawAxis();
  drawCurves(curves);
  drawSpans(answer);
  find(".asked").textContent = answer.question;
  find(".said").textContent = answer.text;
  const rows = answer.spans.map((span, k) => {
    const row = make("li", "");
    row.append(make("b", "", `${clock(span.start)} to ${clock(span.end)}`));
    const likely = answer.confidences[k];
    if (likely !== undefined) row.append(make("small", "", `probability of these two marks: ${likely.toFixed(2)}`));
    if (!curves[k]) return row;
    const [start, end, iou] = curves[k].best;
    const best = `${clock(start)} to ${clock(end)}, whose IoU with the truth is expected to be ${iou.toFixed(2)}`;
    row.append(make("small", "", `best by all probabilities: ${best}`));
    return row;
  });
  find(".list").replaceChildren(...rows);
  find(".none").textContent = rows.length ? "" : "The answer holds no well-formed span.";
  if (rows.length && !curves.length) find(".none").textContent = "This model tells no probability over time.";
  const seconds = answer.spans.map((span) => `${span.start.toFixed(2)} ${span.end.toFixed(2)}`).join("\n");
  find(".copy-seconds").disabled = !rows.length;
  find(".copy-seconds").onclick = (event) => copy(event.target, seconds);
  find(".copy-json").onclick = (event) => copy(event.target, JSON.stringify(answer));
  const chips = tokens.map((token) => make("code", /^<t\d+>$/.test(token) ? "time" : "", token.replaceAll(" ", "␣")));
  find(".tokens").replaceChildren(...chips);
  find(".answer").hidden = false;
}

function choose(source) {
  find(".answer").hidden = true;
  find(".unplayable").hidden = true;
  find(".timeline").seconds = 0;
  find(".timeline").hidden = !source;
  if (source) player().src = source;
  else player().removeAttribute("src");
  player().load();
  drawCurves([]);
  drawSpans({ spans: [] });
  drawAxis();
}

find(".timeline").addEventListener("click", (event) => {
  const place = find(".timeline").getBoundingClientRect();
  if (!event.target.closest("button")) player().currentTime = ((event.clientX - place.left) / place.width) * length();
});
player().addEventListener("error", () => (find(".unplayable").hidden = !player().hasAttribute("src")));
player().addEventListener("loadedmetadata", drawAxis);
player().addEventListener("timeupdate", () => (find(".now").style.left = percent(player().currentTime)));
new ResizeObserver(drawAxis).observe(find(".timeline"));
watch("value", () => {
  const { answer, source } = props.value || {};
  if (!answer) choose(source);
  else if (decodeURIComponent(player().src).endsWith(`/${answer.video}`)) show(props.value); // else it is of another video
});
