// SPDX-License-Identifier: Apache-2.0
//
// A survey as sections of a report and as text. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "tools/report/page.h"
#include "tools/report/survey.h"

namespace varve::tools {

/// Time line, heat map, sizes of the chain, regions, images: for the chains with the most images, a bounded number.
std::vector<ReportSection> survey_sections(const StoreSurvey& survey);
/// Of one chain, for a report of something else.
ReportSection chain_section(const SurveyedChain& chain, const std::string& title, const std::string& text);
/// A table of images and one of regions for each chain.
std::string survey_text(const StoreSurvey& survey);
/// The whole page of `varve report`.
Report survey_report(const StoreSurvey& survey);

}  // namespace varve::tools
