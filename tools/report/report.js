// SPDX-License-Identifier: Apache-2.0
//
// Draws a report from the JSON in #report-data (plots.h says what stands in it). Names come from stores and command
// lines, so that text enters the page as text nodes and attribute values only, never as markup.
'use strict';

(() => {
  const report = JSON.parse(document.getElementById('report-data').textContent);
  const SVG = 'http://www.w3.org/2000/svg';
  const WIDTH = 1000;

  // --- elements ---
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    for (const child of [].concat(children || []))
      element.append(child instanceof Node ? child : document.createTextNode(child));
    return element;
  }
  const html = (tag, attributes, children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const titled = (shape, text) => { shape.append(svg('title', {}, text)); return shape; };
  const colour = (index) => `var(--c${index % 6})`;
  function text(x, y, content, options = {}) {
    const attributes = { x, y, 'text-anchor': options.anchor || 'start' };
    if (options.soft) attributes.class = 'soft';
    return svg('text', attributes, content);
  }
  function shorten(name, most) {
    const letters = [...String(name)];
    return letters.length <= most ? String(name) : letters.slice(0, most - 1).join('') + '…';
  }

  // --- figures ---
  function scaled(value, step, units) {
    let at = 0;
    while (at + 1 < units.length && Math.abs(value) >= step) { value /= step; at += 1; }
    const digits = value === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
    return `${Number(value.toFixed(digits))} ${units[at]}`.trim();
  }
  const formats = {
    ns: (v) => (Math.abs(v) < 1e9 ? scaled(v, 1000, ['ns', 'µs', 'ms']) : scaled(v / 1e9, Infinity, ['s'])),
    bytes: (v) => scaled(v, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']),
    rate: (v) => scaled(v, 1000, ['B/s', 'kB/s', 'MB/s', 'GB/s']),
    share: (v) => `${Number((v * 100).toFixed(v < 0.1 ? 1 : 0))} %`,
    count: (v) => Number(v.toFixed(2)).toLocaleString('en'),
    ratio: (v) => Number(v.toFixed(2)).toString(),
  };
  const format = (value, unit) =>
    (value === null || value === undefined ? '–' : (formats[unit] || formats.count)(value));

  // Round steps for an axis from 0 to `end`; times and counts by tens, bytes by twos.
  function ticks(end, unit) {
    if (!(end > 0)) return [0];
    const base = unit === 'bytes' ? 2 : 10;
    const rough = end / 5;
    let step = Math.pow(base, Math.floor(Math.log(rough) / Math.log(base)));
    if (base === 10) step *= [1, 2, 5, 10].find((factor) => step * factor >= rough);
    else if (step < rough) step *= 2;
    const result = [];
    for (let at = 0; at <= end * 1.0001; at += step) result.push(at);
    return result;
  }
  function decades(low, high) {
    const result = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
      for (const factor of [1, 2, 5]) {
        const value = factor * Math.pow(10, power);
        if (value >= low && value <= high) result.push(value);
      }
    const stride = Math.ceil(result.length / 9);
    return result.filter((_, index) => index % stride === 0);
  }

  function key(names, extra = []) {
    const entries = names.map((name, index) =>
      html('span', {}, [html('i', { style: `background:${colour(index)}` }), name]));
    return html('div', { class: 'key' }, entries.concat(extra));
  }
  const drawing = (height, label, children) =>
    svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, role: 'img', 'aria-label': label }, children);

  // --- plots: each returns elements ---
  const plots = {};

  // The share of the samples at or below a time. One line a series; reference times as dashed lines.
  plots.distribution = (plot) => {
    const left = 48, right = WIDTH - 20, top = 26, bottom = 250;
    const series = plot.series.filter((one) => one.values.length > 0);
    const all = series.flatMap((one) => one.values).concat(plot.marks.map((mark) => mark.value)).filter((v) => v > 0);
    if (all.length === 0) return [html('p', { class: 'soft' }, 'no samples')];
    let low = Math.min(...all), high = Math.max(...all);
    low *= 0.9;
    high *= 1.1;
    const logarithmic = high / low > 8;
    if (!logarithmic) low = 0;
    const x = (value) => left + (right - left) *
      (logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const y = (share) => bottom - (bottom - top) * share;
    const shapes = [];
    for (const tick of logarithmic ? decades(low, high) : ticks(high, plot.unit)) {
      shapes.push(svg('path', { class: 'grid', d: `M${x(tick)} ${top}V${bottom}` }));
      shapes.push(text(x(tick), bottom + 18, format(tick, plot.unit), { anchor: 'middle', soft: true }));
    }
    for (const share of [0, 0.5, 0.9, 1]) {
      shapes.push(svg('path', { class: 'grid', d: `M${left} ${y(share)}H${right}` }));
      shapes.push(text(left - 8, y(share) + 4, format(share, 'share'), { anchor: 'end', soft: true }));
    }
    let marked = -Infinity;
    for (const mark of [...plot.marks].sort((a, b) => a.value - b.value)) {
      const at = x(mark.value), nearEnd = at > right - 160;
      shapes.push(titled(svg('path', { class: 'reference', d: `M${at} ${top}V${bottom}` }),
        `${mark.name}: ${format(mark.value, plot.unit)}`));
      if (at - marked < 120) continue;  // its name would lie over the last one; the pointer shows it
      const anchor = nearEnd ? 'end' : 'start';
      shapes.push(text(nearEnd ? right : at, top - 8, shorten(mark.name, 26), { anchor, soft: true }));
      marked = at;
    }
    series.forEach((one, index) => {
      const values = [...one.values].sort((a, b) => a - b);
      let path = `M${x(values[0])} ${y(0)}`;
      values.forEach((value, rank) => {
        path += `H${x(value).toFixed(1)}V${y((rank + 1) / values.length).toFixed(1)}`;
      });
      const median = values[Math.ceil(values.length / 2) - 1];
      shapes.push(titled(svg('path', { d: path, fill: 'none', stroke: colour(index), 'stroke-width': 2.2 }),
        `${one.name}: median ${format(median, plot.unit)}, ${format(values[0], plot.unit)} to ` +
        `${format(values[values.length - 1], plot.unit)}, ${values.length} samples`));
    });
    const names = series.map((one) => {
      const values = [...one.values].sort((a, b) => a - b);
      return `${one.name}: median ${format(values[Math.ceil(values.length / 2) - 1], plot.unit)}`;
    });
    return [key(names), drawing(bottom + 28, plot.title, shapes)];
  };

  // What happens when, from 0 on: a lane a row.
  plots.stages = (plot) => {
    const left = 330, right = WIDTH - 100, row = 26, top = 8;
    const end = Math.max(...plot.lanes.flatMap((lane) => lane.spans.map((span) => span.end)), 1);
    const bottom = top + plot.lanes.length * row;
    const x = (value) => left + (right - left) * value / end;
    const shapes = [];
    for (const tick of ticks(end, plot.unit)) {
      shapes.push(svg('path', { class: 'grid', d: `M${x(tick)} ${top}V${bottom}` }));
      shapes.push(text(x(tick), bottom + 16, format(tick, plot.unit), { anchor: 'middle', soft: true }));
    }
    plot.lanes.forEach((lane, index) => {
      const y = top + index * row;
      shapes.push(titled(text(left - 10, y + 17, shorten(lane.name, 52), { anchor: 'end' }), lane.name));
      let last = 0;
      for (const span of lane.spans) {
        shapes.push(titled(svg('rect', {
          x: x(span.begin), y: y + 4, width: Math.max(x(span.end) - x(span.begin), 1), height: row - 8,
          fill: colour(span.stage),
        }), `${lane.name}\n${plot.stages[span.stage]}: ${format(span.end - span.begin, plot.unit)}`));
        last = Math.max(last, span.end);
      }
      shapes.push(text(x(last) + 8, y + 17, format(last, plot.unit), { soft: true }));
    });
    return [key(plot.stages), drawing(bottom + 24, plot.title, shapes)];
  };

  // Groups of bars; whiskers from `low` to `high` where they are known. On a logarithmic axis, if that was wished for,
  // where the values are far apart.
  plots.bars = (plot) => {
    const left = 330, right = WIDTH - 110, row = 20, gap = 12;
    const bars = plot.groups.flatMap((group) => group.bars).filter((bar) => bar.value > 0);
    if (bars.length === 0) return [html('p', { class: 'soft' }, 'no figures')];
    const high = Math.max(...bars.map((bar) => Math.max(bar.value, bar.high || 0)));
    const low = Math.min(...bars.map((bar) => bar.value)) / 2;
    const logarithmic = plot.logarithmic && high / low > 40;
    const x = (value) => (value <= 0 ? left : left + (right - left) *
      (logarithmic ? Math.max(0, Math.log(value / low)) / Math.log(high / low) : value / high));
    const shapes = [];
    let y = 6;
    for (const group of plot.groups) {
      const begin = y;
      for (const bar of group.bars) {
        const known = bar.value !== null;
        if (known) {
          shapes.push(titled(svg('rect', { x: left, y: y + 2, width: Math.max(x(bar.value) - left, 1), height: row - 4,
            fill: bar.reference ? 'var(--reference)' : colour(bar.series) }),
            `${group.name}\n${plot.series[bar.series]}: ${format(bar.value, plot.unit)}` +
            (bar.low ? ` (${format(bar.low, plot.unit)} to ${format(bar.high, plot.unit)})` : '')));
          if (bar.low && bar.high > bar.low)
            shapes.push(svg('path', { class: 'whisker', d: `M${x(bar.low)} ${y + row / 2}H${x(bar.high)}` }));
        }
        const end = known ? Math.max(x(bar.value), bar.high ? x(bar.high) : 0) : left;
        const label = known ? format(bar.value, plot.unit) : bar.note || 'not measured';
        shapes.push(text(end + 7, y + 15, label, { soft: true }));
        y += row;
      }
      shapes.push(titled(text(left - 10, (begin + y) / 2 + 4, shorten(group.name, 52), { anchor: 'end' }), group.name));
      y += gap;
    }
    shapes.unshift(svg('path', { class: 'axis', d: `M${left} 0V${y - gap + 4}` }));
    const entries = plot.series.map((name, index) => {
      const own = plot.groups.flatMap((group) => group.bars).filter((bar) => bar.series === index);
      const shade = own.some((bar) => bar.reference) ? 'var(--reference)' : colour(index);
      return own.length === 0 ? null : html('span', {}, [html('i', { style: `background:${shade}` }), name]);
    });
    return [html('div', { class: 'key' }, entries.filter(Boolean).concat(logarithmic ? ['(logarithmic)'] : [])),
      drawing(y, plot.title, shapes)];
  };

  // Stacked columns over images or checkpoints.
  plots.columns = (plot) => {
    const left = 80, right = WIDTH - 20, top = 10, bottom = 220, count = plot.names.length;
    if (count === 0) return [html('p', { class: 'soft' }, 'nothing yet')];
    const sums = plot.names.map((_, index) => plot.series.reduce((sum, one) => sum + (one.values[index] || 0), 0));
    const high = Math.max(...sums) || 1;
    const width = (right - left) / count;
    const y = (value) => bottom - (bottom - top) * value / high;
    const shapes = [];
    for (const tick of ticks(high, plot.unit)) {
      shapes.push(svg('path', { class: 'grid', d: `M${left} ${y(tick)}H${right}` }));
      shapes.push(text(left - 8, y(tick) + 4, format(tick, plot.unit), { anchor: 'end', soft: true }));
    }
    plot.names.forEach((name, index) => {
      let base = 0;
      const x = left + index * width, shown = Math.min(width * 0.86, 46);
      plot.series.forEach((one, which) => {
        const value = one.values[index];
        if (!value) return;
        shapes.push(titled(svg('rect', { x: x + (width - shown) / 2, width: shown, y: y(base + value),
          height: Math.max(y(base) - y(base + value), 0.5), fill: colour(which) }),
          `${name}\n${one.name}: ${format(value, plot.unit)}`));
        base += value;
      });
    });
    const stride = Math.max(1, Math.ceil(count / 12));
    for (let index = 0; index < count; index += stride)
      shapes.push(text(left + (index + 0.5) * width, bottom + 18, shorten(plot.names[index], 12),
        { anchor: 'middle', soft: true }));
    return [key(plot.series.map((one) => one.name)), drawing(bottom + 26, plot.title, shapes)];
  };

  // Images on their chains' lanes, by time.
  plots.points = (plot) => {
    const left = 160, right = WIDTH - 30, row = 46, top = 14;
    const times = plot.points.map((point) => point.time_ms);
    const begin = Math.min(...times), end = Math.max(...times, begin + 1);
    const bottom = top + plot.lanes.length * row;
    const x = (time) => left + (right - left) * (time - begin) / (end - begin);
    const shapes = [];
    plot.lanes.forEach((name, lane) => {
      const y = top + lane * row + row / 2;
      shapes.push(svg('path', { class: 'axis', d: `M${left} ${y}H${right}` }));
      shapes.push(titled(text(left - 12, y + 4, shorten(name, 20), { anchor: 'end' }), name));
    });
    const labelled = plot.lanes.map(() => -Infinity);
    for (const point of plot.points) {
      const at = x(point.time_ms), y = top + point.lane * row + row / 2;
      const tip = `${point.name}\n${point.about}`;
      if (point.damaged)
        shapes.push(titled(svg('path', { class: 'bad', d: `M${at - 6} ${y - 6}l12 12m-12 0l12 -12` }), tip));
      else if (point.full)
        shapes.push(titled(svg('rect', { x: at - 5, y: y - 10, width: 10, height: 20, fill: colour(0) }), tip));
      else
        shapes.push(titled(svg('circle', { cx: at, cy: y, r: 4, fill: colour(1) }), tip));
      if (!point.label || at - labelled[point.lane] < 90) continue;
      const anchor = at > right - 80 ? 'end' : 'middle';
      shapes.push(text(at, y - 14, shorten(point.label, 18), { anchor, soft: true }));
      labelled[point.lane] = at;
    }
    shapes.push(text(left, bottom + 14, plot.begin, { soft: true }));
    shapes.push(text(right, bottom + 14, plot.end, { anchor: 'end', soft: true }));
    const legend = html('div', { class: 'key' }, [
      html('span', {}, [html('i', { style: `background:${colour(0)}` }), 'full']),
      html('span', {}, [html('i', { style: `background:${colour(1)};border-radius:6px` }), 'delta']),
      html('span', {}, [html('i', { style: 'background:var(--bad)' }), 'damaged (a cross)'])]);
    return [legend, drawing(bottom + 24, plot.title, shapes)];
  };

  // Share of a bin that changed, by column and row: two hexadecimal digits a cell, column by column. fe is all of it,
  // ff that it is not there.
  plots.heatmap = (plot) => {
    if (plot.columns === 0 || plot.rows === 0) return [html('p', { class: 'soft' }, 'nothing yet')];
    const height = Math.min(Math.max(plot.rows * 4, 120), 460);
    const cell = (column, row) => parseInt(plot.cells.substr(2 * (column * plot.rows + row), 2), 16);
    const canvas = html('canvas', { role: 'img', 'aria-label': plot.title, width: plot.columns, height: plot.rows,
      style: `width:100%;height:${height}px` });
    const share = (value) =>
      (value === 255 ? 'not there' : value === 0 ? 'unchanged' : `${format(value / 254, 'share')} changed`);
    const pointed = html('div', { class: 'pointed' }, 'point at a cell');
    const bandOf = (row) => plot.bands.find((band) => row >= band.first && row < band.first + band.rows);
    canvas.addEventListener('pointermove', (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
      const column = place((event.clientX - box.left) / box.width, plot.columns);
      const row = place((event.clientY - box.top) / box.height, plot.rows);
      const band = bandOf(row);
      const within = band ? `${band.name}, from ${format((row - band.first) / band.rows * band.bytes, 'bytes')}` : '';
      pointed.textContent = `${plot.column_names[column]}: ${within}: ${share(cell(column, row))}`;
    });
    const paint = () => {
      const style = getComputedStyle(document.documentElement);
      const stops = ['none', 'low', 'middle', 'high', 'page'].map((name) => {
        const hex = style.getPropertyValue(name === 'page' ? '--page' : `--heat-${name}`).trim();
        return [1, 3, 5].map((at) => parseInt(hex.substr(at, 2), 16));
      });
      const context = canvas.getContext('2d');
      const image = context.createImageData(plot.columns, plot.rows);
      for (let column = 0; column < plot.columns; column += 1)
        for (let row = 0; row < plot.rows; row += 1) {
          const value = cell(column, row);
          let rgb = value === 255 ? stops[4] : stops[0];
          if (value > 0 && value < 255) {
            const place = (value - 1) / 253 * 2, from = place < 1 ? 1 : 2, part = place < 1 ? place : place - 1;
            rgb = stops[from].map((low, channel) => low + (stops[from + 1][channel] - low) * part);
          }
          image.data.set([...rgb.map(Math.round), 255], 4 * (row * plot.columns + column));
        }
      context.putImageData(image, 0, 0);
    };
    paint();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
    const bands = html('div', { class: 'bands' });
    let free = -1;
    for (const band of plot.bands) {
      const middle = (band.first + band.rows / 2) / plot.rows * height - 8;
      if (middle < free) continue;  // no room for its name; the pointer shows it
      bands.append(html('span', { style: `top:${middle}px`, title: band.name }, band.name));
      free = middle + 15;
    }
    const first = plot.column_names[0], last = plot.column_names[plot.columns - 1];
    const swatch = (name, value) => html('span', {}, [html('i', { style: `background:var(--${value})` }), name]);
    const ramp = html('span', {}, [html('i', { class: 'ramp',
      style: 'background:linear-gradient(to right,var(--heat-low),var(--heat-middle),var(--heat-high))' }),
    'a little to all of it changed']);
    const below = html('div', { class: 'below' }, [html('span', {}, first), html('span', {}, last)]);
    const names = [swatch('unchanged', 'heat-none'), ramp, swatch('not there, or damaged', 'page')];
    return [html('div', { class: 'key' }, names),
      html('div', { class: 'heat' }, [bands, canvas, below, pointed])];
  };

  plots.table = (plot) => {
    const side = (index) => (plot.columns[index].right ? 'right' : '');
    const head = html('tr', {}, plot.columns.map((column, index) => html('th', { class: side(index) }, column.title)));
    const rows = plot.rows.map((row) => html('tr', {}, row.map((cell, index) =>
      html('td', { class: `${side(index)}${/^(damaged|failed)/.test(cell) ? ' bad' : ''}` }, cell))));
    return [html('div', { class: 'scroll' },
      html('table', {}, [html('thead', {}, head), html('tbody', {}, rows)]))];
  };

  // --- the page ---
  document.title = report.title;
  const main = document.getElementById('report');
  main.append(html('h1', {}, report.title), html('p', { class: 'soft' }, report.subtitle));
  main.append(html('dl', {}, report.facts.flatMap(([name, value]) => [html('dt', {}, name), html('dd', {}, value)])));
  if (report.warnings.length > 0)
    main.append(html('ul', { class: 'warnings' }, report.warnings.map((warning) => html('li', {}, warning))));
  for (const section of report.sections) {
    main.append(html('h2', {}, section.title));
    if (section.text) main.append(html('p', { class: 'soft' }, section.text));
    for (const plot of section.plots)
      main.append(html('figure', { 'data-plot': plot.type },
        [html('h3', {}, plot.title), html('figcaption', {}, plot.text || '')].concat(plots[plot.type](plot))));
  }
  main.append(html('details', {}, [html('summary', {}, 'All figures as JSON'),
    html('pre', {}, JSON.stringify(report.figures, null, 1))]));
  document.documentElement.setAttribute('data-drawn', String(report.sections.length));
})();
