#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh BUILD_DIR [--quick]: kills two simulations with SIGKILL again and again, starts them again until they are
# done, and compares what they computed, bit for bit, with runs that nobody disturbed.
#
# Needs bash, coreutils and cmp, no privileges, and some 2 GiB under $TMPDIR (or /var/tmp). VARVE_TRACKER, VARVE_CAPTURE
# and VARVE_IO force a back end. Exit 0 and the word "identical" only when everything was. On failure the directory
# with stores, outputs and logs is kept.
set -u -o pipefail
export LC_ALL=C

usage() { printf 'usage: demo.sh BUILD_DIR [--quick]\n' >&2; exit 2; }
[ $# -ge 1 ] || usage
build=$1
quick=0
[ $# -lt 2 ] || { [ "$2" = --quick ] && quick=1 || usage; }

die() {
  printf 'demo: %s\n' "$*" >&2
  [ -z "${work:-}" ] || printf 'demo: stores, outputs and logs are kept in %s\n' "$work" >&2
  failed=1
  exit 1
}

for program in gray_scott sparse_life; do
  [ -x "$build/examples/$program" ] ||
    die "start refused: $build/examples/$program is missing; build it first (./dev demo does)"
done

running=0  # pid of the one program that runs
failed=0
work=
clean_up() {
  if [ "$running" -ne 0 ]; then kill -KILL "$running" 2>/dev/null; fi
  if [ -n "$work" ] && [ "$failed" -eq 0 ]; then rm -rf "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
work=$(mktemp -d "${TMPDIR:-/var/tmp}/varve-demo.XXXXXX") ||
  die "making of a directory under ${TMPDIR:-/var/tmp} failed: see above; set TMPDIR to one on a disk"

now_us() { printf '%s' "${EPOCHREALTIME//[.,]/}"; }
# Fixed point: bytes as MiB, nanoseconds as milliseconds, microseconds as seconds.
mib() { printf '%d.%02d MiB' $(($1 / 1048576)) $(($1 % 1048576 * 100 / 1048576)); }
ms() { printf '%d.%02d ms' $(($1 / 1000000)) $(($1 % 1000000 / 10000)); }
seconds() { printf '%d.%d s' $(($1 / 1000000)) $(($1 % 1000000 / 100000)); }
times() {
  if [ "$2" -gt 0 ]; then printf '%d.%d times' $(($1 / $2)) $(($1 * 10 / $2 % 10)); else printf 'many times'; fi
}
sleep_us() { sleep "$(($1 / 1000000)).$(printf '%06d' $(($1 % 1000000)))"; }
random_below() { echo $(((RANDOM * 32768 + RANDOM) % $1)); }

# --- One run -----------------------------------------------------------------------------------------------------

declare -a images=() # lines of statistics of all runs of an example

# start NAME RUN ARG...: sets running; its standard output is read from descriptor 3.
start() {
  local name=$1 run=$2
  shift 2
  rm -f "$work/pipe"
  mkfifo "$work/pipe" || die "making of a FIFO in $work failed"
  "$build/examples/$name" "$@" >"$work/pipe" 2>"$work/$name.$run.err" &
  running=$!
  exec 3<"$work/pipe"
  resumed_image=0 resumed_step=0 cut_image=0 durable_image=0 first_durable=0
}

# take LINE: what the program said.
take() {
  local word image
  read -r word image _ <<<"$1"
  case $word in
    resumed)
      read -r _ _ _ resumed_image _ _ resumed_step <<<"$1"
      durable_image=$resumed_image
      ;;
    checkpoint) cut_image=$image ;;
    durable | written)
      durable_image=$image
      [ "$first_durable" -ne 0 ] || first_durable=$image
      ;;
  esac
}

# kill_now: SIGKILL by pid, then the lines that were still in the pipe.
kill_now() {
  local line
  kill -KILL "$running" 2>/dev/null || return 1
  while IFS= read -r -u 3 line; do take "$line"; done
  exec 3<&-
  wait "$running" 2>/dev/null
  local code=$?
  running=0
  [ "$code" -eq 137 ]
}

# Kill modes: each returns 0 when the moment has come, 1 when the program ended first.
wait_for_delta() { # a durable delta, and then any moment
  local line
  while IFS= read -r -u 3 line; do
    take "$line"
    if [ "$first_durable" -ne 0 ] && [ "$durable_image" -ge 2 ]; then
      sleep_us "$(random_below "$1")"
      return 0
    fi
  done
  return 1
}
wait_for_flight() { # an image that is being written, not the first of the run
  local line
  while IFS= read -r -u 3 line; do
    take "$line"
    if [ "$first_durable" -ne 0 ] && [ "$cut_image" -gt "$durable_image" ]; then return 0; fi
  done
  return 1
}
wait_for_moment() { # any moment at all, even before the first image of the run
  local line until=$(($(now_us) + $1 / 4 + $(random_below "$1"))) left
  while left=$((until - $(now_us))) && [ "$left" -gt 0 ]; do
    if IFS= read -r -t "$((left / 1000000)).$(printf '%06d' $((left % 1000000)))" -u 3 line; then take "$line"
    elif [ $? -le 128 ]; then return 1; fi
  done
  return 0
}

# The step that a killed run had reached, from its progress.
reached_step() {
  local last
  last=$(tail -n 1 "$1" 2>/dev/null)
  last=${last#step }
  last=${last%% *}
  case $last in '' | *[!0-9]*) echo "$resumed_step" ;; *) echo "$last" ;; esac
}

collect_images() {
  local line
  [ -e "$1" ] || return 0
  while IFS= read -r line; do case $line in image=*capture=*) images+=("$line") ;; esac; done <"$1"
}

value() { # value KEY FILE: of a summary
  local line
  while IFS= read -r line; do
    if [[ $line == "$1="* ]]; then printf '%s' "${line#*=}"; return; fi
  done <"$2"
}
field() { # field KEY LINE: of a line of statistics
  local word
  for word in $2; do if [[ $word == "$1="* ]]; then printf '%s' "${word#*=}"; return; fi; done
}

# --- One example -------------------------------------------------------------------------------------------------

declare -a rows=()
total_kills=0 total_repeated=0 flights=0

row() { rows+=("$(printf '  %-4s %-22s %9s %22s %10s %9s  %s' "$@")"); }

# run_example NAME MODES ARG...
run_example() {
  local name=$1 modes=$2
  shift 2
  local store=$work/$name.store out=$work/$name.out reference=$work/$name.reference
  local begin took kill_span run=0 mode code
  images=() rows=() kills=0 repeated=0
  local pending_reached=0 promised=0 # by the run that was killed last

  printf '%s %s\n' "$name" "$*"
  begin=$(now_us)
  "$build/examples/$name" "$@" --quiet --out "$reference" >/dev/null 2>"$work/$name.reference.err" ||
    die "the undisturbed run of $name failed: $(tail -n 1 "$work/$name.reference.err")"
  took=$(($(now_us) - begin))
  printf '  undisturbed, without checkpoints: %s\n' "$(seconds $took)"
  kill_span=$((took / 6))
  [ $kill_span -gt 20000 ] || kill_span=20000
  row RUN ENDED 'AT STEP' 'RESUMED FROM' 'REPEATED' 'DURABLE' 'IN FLIGHT'

  local -a todo
  read -r -a todo <<<"$modes"
  local attempts=0
  while [ ${#todo[@]} -gt 0 ]; do
    mode=${todo[0]}
    run=$((run + 1)) attempts=$((attempts + 1))
    [ $attempts -le 20 ] || die "$name: twenty runs, and the wanted kills did not all come about"
    start "$name" $run "$@" --store "$store" --out "$out" --stats "$work/$name.$run.stats" --progress-ms 0
    if "wait_for_$mode" $kill_span && kill_now; then
      after_kill
      if [ "$mode" = flight ] && [ "$in_flight" = - ]; then continue; fi # it was durable just before: once more
      todo=("${todo[@]:1}")
      continue
    fi
    exec 3<&-
    wait "$running"
    code=$?
    running=0
    [ $code -eq 0 ] || die "$name failed with exit code $code: $(tail -n 1 "$work/$name.$run.err")"
    die "$name was done before it could be killed ($mode); this machine is too fast for the sizes in this script"
  done
  finish_run "$@"
  compare
}

# Accounts for what the run that was killed had done.
after_kill() {
  local reached
  reached=$(reached_step "$work/$name.$run.err")
  in_flight=-
  if [ $run -gt 1 ] && [ "$resumed_image" -eq 0 ] && [ "$cut_image" -eq 0 ] && [ "$reached" -eq 0 ]; then
    # Killed before it had read its image: it has neither resumed nor begun, and the next run owes what this one did.
    row $run "killed ($mode)" - 'killed before' - - -
    kills=$((kills + 1))
    return
  fi
  account_resume
  [ "$cut_image" -le "$durable_image" ] || in_flight="image $cut_image"
  [ "$in_flight" = - ] || flights=$((flights + 1))
  row $run "killed ($mode)" "$reached" "$from" "$again" "image $durable_image" "$in_flight"
  pending_reached=$reached promised=$durable_image
  kills=$((kills + 1))
  collect_images "$work/$name.$run.stats"
}

account_resume() {
  from=- again=-
  if [ $run -eq 1 ]; then return; fi
  if [ "$resumed_image" -ne 0 ]; then from="image $resumed_image, step $resumed_step"; else from='nothing'; fi
  [ "$resumed_image" -ge "$promised" ] ||
    die "$name: image $promised was reported durable, and the next run resumed from ${from}"
  again=$((pending_reached - resumed_step))
  repeated=$((repeated + again))
}

finish_run() {
  local line code
  run=$((run + 1))
  start "$name" $run "$@" --store "$store" --out "$out" --stats "$work/$name.$run.stats" --progress-ms 0
  while IFS= read -r -u 3 line; do take "$line"; done
  exec 3<&-
  wait "$running"
  code=$?
  running=0
  [ $code -eq 0 ] || die "$name failed with exit code $code: $(tail -n 1 "$work/$name.$run.err")"
  account_resume
  row $run 'done' "$(reached_step "$work/$name.$run.err")" "$from" "$again" "image $durable_image" -
  collect_images "$work/$name.$run.stats"
}

compare() {
  printf '%s\n' "${rows[@]}"
  local line full=0 delta=0 full_bytes=0 delta_bytes=0 protected=0 stalls='' bytes
  for line in "${images[@]}"; do
    bytes=$(field written_bytes "$line")
    protected=$(field protected_bytes "$line")
    if [ "$(field kind "$line")" = full ]; then full=$((full + 1)) full_bytes=$((full_bytes + bytes))
    else delta=$((delta + 1)) delta_bytes=$((delta_bytes + bytes)); fi
    stalls+="$(field stall_ns "$line") $(field kind "$line")"$'\n'
  done
  local count=$((full + delta)) stats=$work/$name.$run.stats
  [ $full -gt 0 ] && [ $delta -gt 0 ] ||
    die "$name reported $full full and $delta delta images; at least one of each is expected"
  local -a sorted
  mapfile -t sorted < <(printf '%s' "$stalls" | sort -n)
  local stall=${sorted[$((count / 2))]% *} stall_max=${sorted[$((count - 1))]}
  local most
  most="$(ms "${stall_max% *}"), a ${stall_max#* } image"
  local everything
  everything=$(value state_write_ns "$stats")
  printf '  %d images: %d full of %s, %d delta of %s on average; stall %s, at most %s\n' $count $full \
    "$(mib $((full_bytes / full)))" $delta "$(mib $((delta_bytes / delta)))" "$(ms "$stall")" "$most"
  if [ -x "$build/tools/varve" ]; then
    "$build/tools/varve" verify "$store" >"$work/$name.verify" 2>&1 ||
      die "varve verify $store: $(tail -n 1 "$work/$name.verify")"
    printf '  varve verify: %s\n' "$(tail -n 1 "$work/$name.verify")"
  fi

  local digest wanted
  cmp "$out" "$reference" >&2 || die "$name: the final state of the killed runs differs from the undisturbed one"
  wanted=$(sha256sum <"$reference") digest=$(sha256sum <"$out")
  [ "$digest" = "$wanted" ] || die "$name: digests differ"
  total_kills=$((total_kills + kills)) total_repeated=$((total_repeated + repeated))
  local written=$((full_bytes + delta_bytes)) steps
  steps=$(value_of --steps "${arguments[@]}")
  screen+=$(
    printf '\n%s\n' "$name"
    printf '  final state       identical to the undisturbed run, %s\n' "$(mib "$(stat -c %s "$out")")"
    printf '  sha256            %s\n' "${digest%% *}"
    printf '  kills survived    %d, %d of %s steps repeated\n' $kills $repeated "$steps"
    printf '  stall             %s (most %s); writing everything with fsync: %s, %s as long\n' "$(ms "$stall")" \
      "$most" "$(ms "$everything")" "$(times "$everything" "$stall")"
    printf '  bytes             %s in %d images; %s if each held everything, %s as much\n' "$(mib $written)" \
      $count "$(mib $((protected * count)))" "$(times $((protected * count)) $written)"
    printf '  tracker           %s\n  capture           %s\n  io                %s\n' \
      "$(because "$(value tracker "$stats")" VARVE_TRACKER)" \
      "$(because "$(value capture "$stats")" VARVE_CAPTURE)" "$(because "$(value io "$stats")" VARVE_IO)"
  )
  screen+=$'\n'
  rm -f "$out" "$reference"
  printf '\n'
}

# What was used, and why: the engine says so itself when it was not its first choice.
because() { # because VALUE VARIABLE
  if [[ $1 == *:* ]]; then printf '%s' "$1"
  elif [ -n "${!2:-}" ]; then printf '%s: forced by %s' "$1" "$2"
  elif [[ $1 == *\(* ]]; then printf '%s' "$1"
  else printf '%s: the first choice, and it works here' "$1"; fi
}

value_of() { # value_of OPTION ARG...
  local option=$1
  shift
  while [ $# -gt 1 ]; do
    if [ "$1" = "$option" ]; then printf '%s' "$2"; return; fi
    shift
  done
}

# --- All of it ---------------------------------------------------------------------------------------------------

screen=
begin_us=$(now_us)
printf 'Kills at random moments against undisturbed runs, in %s (%s), Linux %s, %s processors\n\n' "$work" \
  "$(df --output=fstype "$work" | tail -n 1)" "$(uname -r)" "$(nproc)"

if [ $quick -eq 1 ]; then
  gray=(--size 512 --steps 1500 --every 50)
  life=(--size 4096 --steps 1500 --every 50 --gliders 200)
else
  gray=(--size 2048 --steps 1200 --every 40)
  life=(--size 16384 --steps 3000 --every 100)
fi
arguments=("${gray[@]}")
run_example gray_scott 'delta flight moment moment' "${gray[@]}"
arguments=("${life[@]}")
run_example sparse_life 'delta flight' "${life[@]}"

printf -- '--------------------------------------------------------------------------------\n'
printf 'identical: both programs ended with the same bits as if nothing had happened\n'
printf '%d kills survived, %d of them while an image was being written; %d steps repeated; %s\n' $total_kills $flights \
  $total_repeated "$(seconds $(($(now_us) - begin_us)))"
printf '%s' "$screen"
