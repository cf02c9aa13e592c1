// Tells what a browser has drawn of a report: the test appends this to a copy of the page and reads the JSON from its end.
// Places are in CSS pixels from the top left corner of the page.
(() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  const rgba = (text) => {
    const parts = (text.match(/[\d.]+/g) || []).map(Number);
    return text.startsWith("rgb") ? [parts[0], parts[1], parts[2], parts.length > 3 ? parts[3] : 1] : null;
  };
  const over = (top, below, opacity) => {
    const alpha = top[3] * opacity;
    return [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha)).concat(1);
  };
  // What lies behind an element: the backgrounds of its ancestors, the page's below all of them.
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => (layer && layer[3] > 0 ? over(layer, below, 1) : below), [255, 255, 255, 1]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const place = (box) => [box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY];
  const marks = (svg) => {
    const found = [];
    for (const shape of svg.querySelectorAll("circle.dot, rect.bar, polyline.line, path.cells")) {
      const style = getComputedStyle(shape);
      const is_filled = shape.tagName === "rect" || shape.tagName === "path";
      const paint = rgba(is_filled ? style.fill : style.stroke);
      const opacity = Number(style.opacity) * Number(is_filled ? style.fillOpacity : 1);
      const inner = shape.getBBox();
      let pieces = 1;
      if (shape.tagName === "polyline") pieces = shape.points.numberOfItems;
      if (shape.tagName === "path") pieces = (shape.getAttribute("d").match(/M/g) || []).length;
      const back = behind(svg);
      found.push({
        kind: shape.tagName,
        class: shape.getAttribute("class"),
        pieces,
        box: place(shape.getBoundingClientRect()),
        is_drawn: style.visibility === "visible" && style.display !== "none" && paint !== null && opacity > 0 && pieces > 0
          && (inner.width > 0 || inner.height > 0 || shape.tagName === "polyline"),
        paint: paint && over(paint, back, opacity).slice(0, 3).map(Math.round),
        contrast: paint ? contrast(over(paint, back, 1), back) : 0,
      });
    }
    return found;
  };
  const texts = (svg) => [...svg.querySelectorAll("text")].map((text) => {
    const style = getComputedStyle(text);
    // Behind a text may lie a bar or a cell.
    let back = behind(svg);
    const box = text.getBoundingClientRect();
    const middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    for (const bar of svg.querySelectorAll("rect.bar")) {
      const under = bar.getBoundingClientRect();
      if (under.left <= middle[0] && middle[0] <= under.right && under.top <= middle[1] && middle[1] <= under.bottom) {
        const of_bar = getComputedStyle(bar);
        back = over(rgba(of_bar.fill), back, Number(of_bar.opacity) * Number(of_bar.fillOpacity));
      }
    }
    const height = parseFloat(style.fontSize) * (svg.getBoundingClientRect().width / svg.viewBox.baseVal.width);
    return { text: text.textContent, box: place(box), height, contrast: contrast(over(rgba(style.fill), back, 1), back) };
  });
  const figures = [...document.querySelectorAll("svg")].map((svg) => ({
    label: svg.getAttribute("aria-label"),
    box: place(svg.getBoundingClientRect()),
    back: behind(svg).slice(0, 3).map(Math.round),
    marks: marks(svg),
    texts: texts(svg),
  }));
  const words = [];
  for (const element of document.querySelectorAll("h1, h2, h3, p, li, th, td, summary, figcaption, .legend > span")) {
    if (!element.textContent.trim()) continue;
    const box = element.getBoundingClientRect();
    const back = behind(element);
    words.push({
      text: element.textContent.trim().slice(0, 60),
      box: place(box),
      contrast: contrast(over(rgba(getComputedStyle(element).color), back, 1), back),
    });
  }
  const facts = {
    is_dark: matchMedia("(prefers-color-scheme: dark)").matches,
    paper: behind(document.body).slice(0, 3),
    width: document.documentElement.clientWidth,
    scroll_width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    figures,
    words,
  };
  document.body.textContent = "";
  document.title = "facts";
  const out = document.createElement("pre");
  out.id = "facts";
  out.textContent = JSON.stringify(facts);
  document.body.append(out);
})();
