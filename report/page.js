// Draws every chart of the page, in the page's colours, and again when these change.
const dark = matchMedia("(prefers-color-scheme: dark)");

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
}

async function drawAll() {
  for (const figure of document.querySelectorAll("figure[data-chart]")) await draw(figure);
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
}

dark.addEventListener("change", drawAll);
drawAll();
