// Draws every chart of the page, in the page's colours, and again when these change; singles networks out.
const dark = matchMedia("(prefers-color-scheme: dark)");
const figures = document.querySelectorAll("figure[data-chart]");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const text = { labelColor: ink, titleColor: ink };
  return {
    background: null,
    font: "system-ui, sans-serif",
    view: { stroke: null },
    title: { color: ink, anchor: "start", fontSize: 13, fontWeight: 600 },
    axis: { ...text, gridColor: line, gridOpacity: 0.6, domainColor: soft, tickColor: soft },
    legend: { ...text },
    text: { fill: ink },
  };
}

async function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const place = figure.querySelector(".chart");
  const options = {
    ast: true, // expressions are interpreted: the page forbids eval
    renderer: "svg",
    actions: false,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
    config: colours(),
  };
  const { view } = await vegaEmbed(place, spec, options);
  place.view = view;
  place.setAttribute("role", "img"); // as in the page: one picture with a label, not thousands of marks
  if (!buttons(figure).length) return;
  view.addEventListener("click", (event, item) => choose(figure, item?.datum?.name ?? "")); // all else has no name
  await choose(figure, buttons(figure).find(isPressed)?.value ?? "");
}

const buttons = (figure) => [...figure.querySelectorAll(".choices button")];
const isPressed = (button) => button.getAttribute("aria-pressed") === "true";

// Singles one network of a chart out, by its name; "" none.
async function choose(figure, name) {
  for (const button of buttons(figure)) button.setAttribute("aria-pressed", button.value === name);
  await figure.querySelector(".chart").view.signal("chosen", name).runAsync();
}

function listen(figure) {
  for (const button of buttons(figure))
    button.addEventListener("click", () => choose(figure, isPressed(button) ? "" : button.value));
}

async function drawAll() {
  for (const figure of figures) await draw(figure);
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

dark.addEventListener("change", drawAll);
drawAll().then(() => figures.forEach(listen));
