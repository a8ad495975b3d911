// The two things that need a script: a cursor on a history, and figures that move. All else is the server's.
"use strict";

// A range input under the chart moves along its points: by hand, by keyboard, read aloud by screen readers.
for (const figure of document.querySelectorAll("figure.history")) {
  const points = JSON.parse(figure.querySelector("script.points").textContent);
  const scrub = figure.querySelector(".scrub"), input = scrub.querySelector("input"), said = scrub.querySelector("output");
  const plot = figure.querySelector("svg.plot"), cursor = plot.querySelector(".cursor");
  const show = (i) => {
    const [x, , text] = points[i];
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x + "%");
    cursor.setAttribute("visibility", "visible");
    input.value = i;
    input.setAttribute("aria-valuetext", text);
    said.textContent = text;
  };
  input.max = points.length - 1;
  input.value = points.length - 1;
  input.setAttribute("aria-valuetext", points[points.length - 1][2]);
  said.textContent = points[points.length - 1][2];
  input.addEventListener("input", () => show(Number(input.value)));
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect(), x = 100 * (event.clientX - box.left) / box.width;
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle + 1; else high = middle;
    }
    show(low > 0 && x - points[low - 1][0] < points[low][0] - x ? low - 1 : low);
  });
  scrub.hidden = false;
}

// Sliders: the address follows them, and whet on this machine computes.
const form = document.getElementById("sliders");
if (form) {
  const returned = document.getElementById("returned"), status = document.getElementById("status");
  const numbers = [...form.querySelectorAll("input[type=number]")];
  const rangeOf = (input) => form.querySelector(`input[data-for="${input.id}"]`);
  let waiting = null, timer = 0;
  document.documentElement.classList.add("live");

  const query = () => {
    const found = new URLSearchParams(location.search);
    found.delete("compute");
    for (const input of numbers) {
      if (input.value === "" || Number(input.value) === Number(input.dataset.default)) found.delete(input.name);
      else found.set(input.name, input.value);
    }
    return found.toString();
  };
  const compute = async () => {
    if (waiting) waiting.abort();
    const mine = waiting = new AbortController();
    returned.classList.add("waiting");
    returned.setAttribute("aria-busy", "true");
    status.textContent = form.dataset.computing;
    try {
      const answer = await fetch("/api/return?" + query(), {signal: mine.signal});
      const body = await answer.json();
      returned.innerHTML = body.html;
      status.textContent = body.status;
    } catch (error) {
      if (error.name === "AbortError") return;
      returned.textContent = status.textContent = form.dataset.failed;
    }
    returned.classList.remove("waiting");
    returned.removeAttribute("aria-busy");
  };
  const later = () => { clearTimeout(timer); timer = setTimeout(compute, 200); };
  const keep = (how) => {
    const address = location.pathname + "?" + query();
    if (address !== location.pathname + location.search) history[how](null, "", address);
  };
  for (const input of numbers) {
    const range = rangeOf(input);
    range.addEventListener("input", () => { input.value = range.value; later(); });
    range.addEventListener("change", () => { input.value = range.value; keep("pushState"); });
    input.addEventListener("input", () => {
      if (Number(input.value) > Number(range.max)) range.max = input.value;
      range.value = input.value;
      later();
    });
    input.addEventListener("change", () => keep("pushState"));
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); keep("pushState"); compute(); });
  addEventListener("popstate", () => {
    const asked = new URLSearchParams(location.search);
    for (const input of numbers) rangeOf(input).value = input.value = asked.get(input.name) ?? input.dataset.default;
    compute();
  });
  compute();
}
