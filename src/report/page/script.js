"use strict";
// Shows the values of a figure under the pointer, or at the place that the arrow keys select. The
// figures over time share their places, so all of them show the same one.
for (const group of document.querySelectorAll("[data-at]")) {
  const charts = group.matches(".chart") ? [group] : [...group.querySelectorAll(".chart[data-values]")];
  const positions = group.dataset.at.split(" ").map(Number);
  const places = group.dataset.places.split("\t");
  let place = -1;

  const shown = charts.map((chart) => {
    const area = chart.querySelector(".area");
    const pointer = document.createElement("div");
    const readout = document.createElement("p");
    pointer.className = "pointer";
    pointer.hidden = true;
    readout.className = "readout";
    area.append(pointer);
    chart.after(readout);
    const names = chart.dataset.names.split("\t");
    const rows = chart.dataset.values.split("\n").map((row) => row.split("\t"));
    return { area, pointer, readout, names, rows };
  });

  function pair(name, value) {
    const [both, label] = [document.createElement("span"), document.createElement("i")];
    label.append(name);
    both.append(label, value);
    return both;
  }

  function show(next, from) {
    place = Math.max(0, Math.min(positions.length - 1, next));
    for (const { area, pointer, readout, names, rows } of shown) {
      pointer.hidden = false;
      pointer.style.left = positions[place] + "%";
      readout.ariaLive = area === from ? "polite" : "off";
      readout.replaceChildren(pair(places[place], ""));
      names.forEach((name, at) => {
        readout.append(at === 0 ? ": " : ", ", pair(name + " ", rows[place]?.[at] ?? ""));
      });
    }
  }

  function hide() {
    place = -1;
    for (const { pointer, readout } of shown) {
      pointer.hidden = true;
      readout.replaceChildren();
    }
  }

  function nearest(percent) {
    let best = 0;
    positions.forEach((position, at) => {
      if (Math.abs(position - percent) < Math.abs(positions[best] - percent)) best = at;
    });
    return best;
  }

  for (const { area } of shown) {
    const title = area.closest("figure").querySelector("h3").textContent;
    area.tabIndex = 0;
    area.setAttribute("role", "group");
    area.setAttribute("aria-label", title + ": values by the arrow keys");
    const point = (event) => {
      const box = area.getBoundingClientRect();
      show(nearest(((event.clientX - box.left) / box.width) * 100), null);
    };
    area.addEventListener("pointermove", point);
    area.addEventListener("pointerdown", point);
    area.addEventListener("pointerleave", hide);
    area.addEventListener("blur", hide);
    area.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
      if (event.key in steps) show(place + steps[event.key], area);
      else if (event.key === "Home") show(0, area);
      else if (event.key === "End") show(positions.length - 1, area);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    });
  }
}
